use hyperinf_eval::{EvalError, auc};
use serde::Serialize;

/// How fast bad rows are found when the most suspicious ones are looked at first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DetectionCurve {
    /// What rows are suspected by.
    pub name: String,
    /// The area under the ROC curve; 0.5 is chance.
    pub auc: f64,
    /// The share of the bad rows among the most suspicious 0 %, 1 %, … 100 %; equal suspicions count with their expected
    /// number.
    pub points: Vec<f64>,
}

impl DetectionCurve {
    /// The curve of a suspicion: the highest is looked at first.
    ///
    /// # Errors
    ///
    /// If the lengths differ, a suspicion is NaN, or all or no rows are bad.
    pub fn new(name: impl Into<String>, suspicion: &[f64], bad: &[bool]) -> Result<Self, EvalError> {
        let auc = auc(suspicion, bad)?;
        let mut order: Vec<usize> = (0..suspicion.len()).collect();
        order.sort_by(|&a, &b| suspicion[b].total_cmp(&suspicion[a]));
        // found[k]: the expected number of bad rows among the first k.
        let mut found = vec![0.0];
        for tied in order.chunk_by(|&a, &b| suspicion[a] == suspicion[b]) {
            let (before, hits) = (found[found.len() - 1], tied.iter().filter(|&&row| bad[row]).count() as f64);
            found.extend((1..=tied.len()).map(|looked| before + hits * looked as f64 / tied.len() as f64));
        }
        let total = found[found.len() - 1];
        let rows = suspicion.len() as f64;
        let points =
            (0..=100).map(|percent| found[(f64::from(percent) / 100.0 * rows).round() as usize] / total).collect();
        Ok(Self { name: name.into(), auc, points })
    }
}
