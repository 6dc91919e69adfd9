use super::retrain::{some, without};
use crate::{Bank, Job, Retrain, TruthError, mean_and_error};

/// What leaving samples out does.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaveOneOut {
    /// The samples left out, one at a time.
    pub samples: Vec<usize>,
    /// The mean over seeds of `loss(without the sample) − loss(with all)`, `[q][m]`: positive = the sample helped. An
    /// influence score over `n` is its first-order prediction.
    pub effects: Vec<Vec<f64>>,
    /// The standard error of each mean, `[q][m]`; `None` with one seed.
    pub errors: Option<Vec<Vec<f64>>>,
}

/// Leaves each of `left_out` out in turn and trains on the others, with every seed; the difference is taken to the
/// training on all samples with the *same* seed.
///
/// # Errors
///
/// If there are no seeds or samples to leave out, one of them is not of the task, or a training fails.
pub fn leave_one_out(
    task: &dyn Retrain,
    left_out: &[usize],
    seeds: &[u64],
    bank: &mut Bank,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<LeaveOneOut, TruthError> {
    some("seeds", seeds.len())?;
    some("samples to leave out", left_out.len())?;
    let n = task.samples();
    if let Some(index) = left_out.iter().position(|&sample| sample >= n) {
        return Err(TruthError::Subset { index, value: left_out[index], samples: n });
    }
    let mut jobs: Vec<Job> = seeds.iter().map(|&seed| ((0..n).collect(), seed)).collect();
    for &sample in left_out {
        jobs.extend(seeds.iter().map(|&seed| (without(n, &[sample]), seed)));
    }
    let outcomes = bank.outcomes(task, &jobs, progress)?;
    let (full, reduced) = outcomes.split_at(seeds.len());
    let (mut effects, mut errors) = (Vec::new(), Vec::new());
    for query in 0..task.queries() {
        let difference = |trainings: &[crate::Outcome]| {
            let pairs = trainings.iter().zip(full);
            let found: Vec<f64> = pairs.map(|(less, full)| less.losses[query] - full.losses[query]).collect();
            mean_and_error(&found)
        };
        let (means, spread): (Vec<f64>, Vec<Option<f64>>) = reduced.chunks(seeds.len()).map(difference).unzip();
        effects.push(means);
        errors.push(spread.into_iter().collect::<Option<Vec<f64>>>());
    }
    Ok(LeaveOneOut { samples: left_out.to_vec(), effects, errors: errors.into_iter().collect() })
}
