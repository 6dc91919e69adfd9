//! Scores at several dampings: how stable their ranking is, and which damping to take.

mod advice;
mod known;

use hyperinf_scoring::{Attribution, BlockReport, Scores};

pub use self::advice::{Advice, Evidence, advise, plateaus};
pub use self::known::{KnownError, known_bad};

use crate::{Agreement, EvalError, agreements, auc};

/// Settings of [`study_dampings`].
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `top` | 10 | most helpful samples whose overlap is taken | ≥ 1 |
/// | `stable` | 0.95 | rank correlation from which neighbours form a plateau | (0, 1] |
/// | `bad` | `None` | which samples are known to be bad, `[n]` | some, not all |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DampingConfig<'a> {
    /// The number of most helpful samples whose overlap is taken.
    pub top: usize,
    /// The rank correlation from which neighbouring dampings count as stable.
    pub stable: f64,
    /// Samples known to be bad.
    pub bad: Option<&'a [bool]>,
}

impl Default for DampingConfig<'_> {
    fn default() -> Self {
        Self { top: 10, stable: 0.95, bad: None }
    }
}

/// How scores depend on the damping; one entry per damping in each list.
#[derive(Clone, Debug, PartialEq)]
pub struct DampingStudy {
    /// Agreement with the scores at the next larger damping; `None` for the largest.
    pub next: Vec<Option<Agreement>>,
    /// Agreement with the plain dot product.
    pub dot: Vec<Agreement>,
    /// AUC with which low scores find the samples known to be bad, in [0, 1]; `None` if none are known.
    pub auc: Vec<Option<f64>>,
    /// Stretches with one ranking, as their first and last index: see [`plateaus`].
    pub plateaus: Vec<(usize, usize)>,
    /// The recommended damping; `None` without samples known to be bad.
    pub advice: Option<Advice>,
}

/// Compares the scores at each damping with those at the next one, with the plain dot product and with samples known to
/// be bad, and recommends a damping where these are known.
///
/// `found[i]` are the scores at `dampings[i]`, which increase; `dot` are the scores by the dot product of the same
/// gradients.
///
/// # Errors
///
/// If `found` and `dampings` differ in length, `stable` is not above 0 and at most 1, or as [`agreements`] and [`auc`].
pub fn study_dampings(
    dampings: &[f64],
    found: &[Attribution],
    dot: &Scores,
    config: &DampingConfig<'_>,
) -> Result<DampingStudy, EvalError> {
    if found.len() != dampings.len() {
        return Err(EvalError::Length { left: found.len(), right: dampings.len() });
    }
    // NaN is in no range.
    if !(config.stable > 0.0 && config.stable <= 1.0) {
        return Err(EvalError::Share { value: config.stable });
    }
    let mut sets: Vec<&Scores> = found.iter().map(|attribution| &attribution.scores).collect();
    sets.push(dot);
    let agreements = agreements(&sets, config.top)?;
    let count = found.len();
    let next: Vec<Option<Agreement>> = (0..count).map(|i| (i + 1 < count).then(|| agreements[i][i + 1])).collect();
    let dot: Vec<Agreement> = (0..count).map(|i| agreements[i][count]).collect();
    let area = |scores: &Scores| config.bad.map(|bad| auc(&suspicion(scores), bad)).transpose();
    let auc: Vec<Option<f64>> = found.iter().map(|a| area(&a.scores)).collect::<Result<_, _>>()?;
    let evidence = |i: usize| Evidence {
        damping: dampings[i],
        converged: found[i].blocks.iter().all(BlockReport::converged),
        dot: dot[i].spearman,
        next: next[i].and_then(|agreement| agreement.spearman),
        auc: auc[i],
    };
    let all: Vec<Evidence> = (0..count).map(evidence).collect();
    let (plateaus, advice) = (plateaus(&all, config.stable), advise(&all));
    Ok(DampingStudy { next, dot, auc, plateaus, advice })
}

/// The negative mean score of each sample over the queries, `[n]`: high for samples that look harmful.
fn suspicion(scores: &Scores) -> Vec<f64> {
    let queries = scores.queries() as f64;
    (0..scores.samples()).map(|i| -scores.rows.iter().map(|row| row[i]).sum::<f64>() / queries).collect()
}
