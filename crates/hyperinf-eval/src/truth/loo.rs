use hyperinf_scoring::QueryMode;
use serde_json::json;

use super::Truth;
use super::retrain::{some, without};
use crate::{Bank, Bench, Figure, Findings, Interval, Job, Retrain, TruthError, mean_and_error, spearman};

/// Leave-one-out retraining as a ground truth.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `samples` | 0 to 39 | training images left out, one at a time | at least 2, of the task |
/// | `seeds` | 0 to 4 | trainings without each image, and on all of them | at least one |
#[derive(Clone, Debug, PartialEq)]
pub struct LooConfig {
    /// The training images.
    pub samples: Vec<usize>,
    /// The seeds of the trainings.
    pub seeds: Vec<u64>,
}

impl Default for LooConfig {
    fn default() -> Self {
        Self { samples: (0..40).collect(), seeds: (0..5).collect() }
    }
}

impl Truth for LooConfig {
    fn name(&self) -> &'static str {
        "loo"
    }

    fn figure(&self) -> &'static str {
        "Spearman's correlation over samples of the scores with the growth of the loss, mean over queries, in [-1, 1]; higher = better"
    }

    fn evaluate(&self, bench: &mut Bench<'_>) -> Result<Findings, TruthError> {
        let task = bench.config().task.task()?;
        let truth =
            bench.retrain(&task, |bank, progress| leave_one_out(&task, &self.samples, &self.seeds, bank, progress))?;
        let ensemble = bench.train(&task, bench.seeds())?;
        bench.judge(&ensemble, QueryMode::Each, |_, scores| {
            let correlation = |(scores, effects): (&Vec<f64>, &Vec<f64>)| {
                spearman(&self.samples.iter().map(|&sample| scores[sample]).collect::<Vec<_>>(), effects)
            };
            let found: Vec<f64> = scores.rows.iter().zip(&truth.effects).map(correlation).collect::<Result<_, _>>()?;
            let mean = Interval::of(&found).map(|mean| mean.within(-1.0, 1.0));
            Ok(Figure::interval(["spearman", "low", "high"], mean).to_vec())
        })?;
        let size = |values: &[Vec<f64>]| {
            let all: Vec<f64> = values.iter().flatten().map(|v| v.abs()).collect();
            all.iter().sum::<f64>() / all.len() as f64
        };
        let sizes = truth.errors.as_ref().map(|errors| (size(&truth.effects), size(errors)));
        let noise = sizes.map_or_else(String::new, |(effect, error)| {
            format!("\nMean size of an effect {effect:.2e}, of its standard error over seeds {error:.2e}.")
        });
        let about = format!(
            "Leave-one-out: {} of {} training images left out in turn, {} seeds each, for {} queries; scores of {} trained \
             model(s).{noise}",
            self.samples.len(),
            task.train.len(),
            self.seeds.len(),
            task.queries.len(),
            bench.config().models,
        );
        let details = [
            ("left_out", json!(self.samples.len())),
            ("seeds", json!(self.seeds.len())),
            ("mean_effect", json!(sizes.map(|sizes| sizes.0))),
            ("mean_standard_error", json!(sizes.map(|sizes| sizes.1))),
        ];
        Ok(Findings::new(&task, about, details))
    }
}

/// The effects of leaving samples out.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaveOneOut {
    /// The samples left out, `[m]`.
    pub samples: Vec<usize>,
    /// The mean over seeds of `loss(without the sample) − loss(with all)`, `[q][m]`: positive = the sample helped. An
    /// influence score over `n` is its first-order prediction.
    pub effects: Vec<Vec<f64>>,
    /// The standard error of each mean, `[q][m]`; `None` with one seed.
    pub errors: Option<Vec<Vec<f64>>>,
}

/// Leaves out each of `left_out` in turn, trains on the others with every seed, and subtracts the losses after
/// training on all samples with the *same* seed.
///
/// # Errors
///
/// If there are no seeds or no samples to leave out, a sample is not in the task, or a training fails.
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
