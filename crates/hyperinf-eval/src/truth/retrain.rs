use crate::TruthError;

/// A model that can be retrained on any subset of its training samples: the basis of most ground truths.
///
/// A training must depend on the subset and the seed alone; the seed sets the initial parameters and the order of the
/// samples. Retrainings run on all threads at once.
pub trait Retrain: Sync {
    /// The number of training samples, `n`.
    fn samples(&self) -> usize;

    /// The number of queries, `q`.
    fn queries(&self) -> usize;

    /// The task in one line: data, model, training. Tasks that can give different losses must have different
    /// fingerprints; a [`Bank`](crate::Bank) belongs to one.
    fn fingerprint(&self) -> String;

    /// The loss of each query, `[q]`, after training on `subset` (ascending, without repetition) with `seed`.
    ///
    /// # Errors
    ///
    /// If training fails; [`TruthError::Retrain`] wraps any error.
    fn query_losses(&self, subset: &[usize], seed: u64) -> Result<Vec<f64>, TruthError>;

    /// The losses, and the predicted class of each query for tasks with classes.
    ///
    /// # Errors
    ///
    /// As [`Retrain::query_losses`].
    fn outcome(&self, subset: &[usize], seed: u64) -> Result<Outcome, TruthError> {
        Ok(Outcome { losses: self.query_losses(subset, seed)?, predictions: None })
    }

    /// The optimiser's steps when training on that many samples, if known: [`selection`](crate::selection) refuses a
    /// task that takes fewer steps on fewer samples.
    fn steps(&self, samples: usize) -> Option<usize> {
        let _ = samples;
        None
    }
}

/// The result of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The loss of each query, `[q]`.
    pub losses: Vec<f64>,
    /// The class predicted for each query, `[q]`, if the task predicts classes.
    pub predictions: Option<Vec<usize>>,
}

/// Fails unless the scores are `[q, n]`.
pub(crate) fn check_scores(task: &dyn Retrain, scores: &[Vec<f64>]) -> Result<(), TruthError> {
    count("rows of scores", scores.len(), task.queries())?;
    scores.iter().try_for_each(|row| count("scores of a query", row.len(), task.samples()))
}

pub(crate) fn count(what: &'static str, found: usize, expected: usize) -> Result<(), TruthError> {
    if found == expected { Ok(()) } else { Err(TruthError::Count { what, found, expected }) }
}

/// Fails if the count is 0.
pub(crate) fn some(name: &'static str, count: usize) -> Result<(), TruthError> {
    if count > 0 { Ok(()) } else { Err(TruthError::Setting { name, expected: "at least one".into(), value: 0.0 }) }
}

/// All samples but those removed.
pub(crate) fn without(samples: usize, removed: &[usize]) -> Vec<usize> {
    let mut keep = vec![true; samples];
    for &sample in removed {
        keep[sample] = false;
    }
    (0..samples).filter(|&sample| keep[sample]).collect()
}

/// Samples by falling score; equal scores keep their order.
pub(crate) fn best_first(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}
