use crate::error::check;
use crate::{EvalError, ranks};

/// The area under the ROC curve: how likely a marked sample is more suspicious than an unmarked one, ties counting
/// half (the Mann–Whitney statistic). 0.5 is chance, 1 is perfect.
///
/// # Errors
///
/// If the lengths differ, a suspicion is NaN, or all or no samples are marked.
pub fn auc(suspicion: &[f64], marked: &[bool]) -> Result<f64, EvalError> {
    let positives = count(suspicion, marked)?;
    let (p, q) = (positives as f64, (marked.len() - positives) as f64);
    let sum: f64 = ranks(suspicion).iter().zip(marked).filter(|(_, marked)| **marked).map(|(rank, _)| rank).sum();
    Ok((sum - p * (p + 1.0) / 2.0) / (p * q))
}

/// The share of all marked samples that are among the most suspicious `share` of the samples, rounded to whole
/// samples; where equal suspicions straddle the cut, their expected number.
///
/// # Errors
///
/// If the lengths differ, a suspicion is NaN, all or no samples are marked, or the share is outside (0, 1].
pub fn detection_rate(suspicion: &[f64], marked: &[bool], share: f64) -> Result<f64, EvalError> {
    let positives = count(suspicion, marked)?;
    if !(share > 0.0 && share <= 1.0) {
        return Err(EvalError::Share { value: share });
    }
    let mut order: Vec<usize> = (0..suspicion.len()).collect();
    order.sort_by(|&a, &b| suspicion[b].total_cmp(&suspicion[a]));
    let mut room = (share * suspicion.len() as f64).round();
    let mut found = 0.0;
    for tied in order.chunk_by(|&a, &b| suspicion[a] == suspicion[b]) {
        let hits = tied.iter().filter(|&&i| marked[i]).count() as f64;
        let taken = (room / tied.len() as f64).min(1.0);
        found += hits * taken;
        room -= taken * tied.len() as f64;
    }
    Ok(found / positives as f64)
}

fn count(suspicion: &[f64], marked: &[bool]) -> Result<usize, EvalError> {
    check(suspicion, marked.len())?;
    let positives = marked.iter().filter(|m| **m).count();
    if positives == 0 || positives == marked.len() {
        return Err(EvalError::OneClass { positives, total: marked.len() });
    }
    Ok(positives)
}
