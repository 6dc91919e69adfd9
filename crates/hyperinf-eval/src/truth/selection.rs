use serde::Serialize;

use super::retrain::{best_first, check_scores, some};
use crate::{Bank, Interval, Job, Retrain, TruthError, random_subsets};

/// How much is kept, and how often it is trained on.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `keep` | 0.05, 0.2, 0.4, 0.7 | shares of the samples to keep | 0 < share < 1 |
/// | `seeds` | 0 to 4 | trainings on each choice | at least one |
/// | `draws` | 5 | random choices of the same size, each trained with one seed in turn | ≥ 1 |
/// | `draw` | 0 | the seed of the random choices | |
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionConfig {
    /// The shares to keep.
    pub keep: Vec<f64>,
    /// The seeds of the trainings.
    pub seeds: Vec<u64>,
    /// Random choices beside.
    pub draws: usize,
    /// The seed of the random choices.
    pub draw: u64,
}

impl Default for SelectionConfig {
    fn default() -> Self {
        Self { keep: vec![0.05, 0.2, 0.4, 0.7], seeds: (0..5).collect(), draws: 5, draw: 0 }
    }
}

/// What training on a choice of the samples gave; each value is the mean over queries of one training, the interval is
/// over trainings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Selection {
    /// The share kept.
    pub share: f64,
    /// The number of samples kept.
    pub kept: usize,
    /// Loss after training on the best.
    pub best: Interval,
    /// Loss after training on random choices.
    pub random: Interval,
    /// Loss after training on all samples.
    pub full: Interval,
}

/// Keeps the samples of the highest mean scores over the queries, trains on them from scratch, and beside on random
/// choices of the same size and on everything: one result per share.
///
/// `scores` are `[q, n]`, or one row for all queries; positive = helpful. Every training must take equally many steps, or
/// fewer samples would also mean less training: a task whose [`Retrain::steps`] differ is refused.
///
/// # Errors
///
/// If the scores have another shape, a setting is out of its range, steps differ, or a training fails.
pub fn selection(
    task: &dyn Retrain,
    scores: &[Vec<f64>],
    config: &SelectionConfig,
    bank: &mut Bank,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Selection>, TruthError> {
    let n = task.samples();
    if scores.len() != 1 || scores[0].len() != n {
        check_scores(task, scores)?;
    }
    let SelectionConfig { keep, seeds, draws, draw } = config;
    some("seeds", seeds.len())?;
    some("random draws", *draws)?;
    let mean: Vec<f64> = (0..n).map(|i| scores.iter().map(|row| row[i]).sum::<f64>() / scores.len() as f64).collect();
    let order = best_first(&mean);
    let mut jobs: Vec<Job> = seeds.iter().map(|&seed| ((0..n).collect(), seed)).collect();
    for &share in keep {
        let random = random_subsets(n, share, *draws, *draw)?;
        let kept = random[0].len();
        if let (Some(full), Some(steps)) = (task.steps(n), task.steps(kept))
            && full != steps
        {
            return Err(TruthError::Steps { samples: kept, steps, full });
        }
        let mut best = order[..kept].to_vec();
        best.sort_unstable();
        jobs.extend(seeds.iter().map(|&seed| (best.clone(), seed)));
        jobs.extend(random.into_iter().zip(seeds.iter().cycle()).map(|(subset, &seed)| (subset, seed)));
    }
    let outcomes = bank.outcomes(task, &jobs, progress)?;
    let losses: Vec<f64> =
        outcomes.iter().map(|o| o.losses.iter().sum::<f64>() / o.losses.len().max(1) as f64).collect();
    let interval = |values: &[f64]| Interval::of(values).expect("there is a training");
    let (full, parts) = losses.split_at(seeds.len());
    let sizes = jobs[seeds.len()..].chunks(seeds.len() + draws).map(|jobs| jobs[0].0.len());
    let results = keep.iter().zip(sizes).zip(parts.chunks(seeds.len() + draws)).map(|((&share, kept), losses)| {
        let (best, random) = losses.split_at(seeds.len());
        Selection { share, kept, best: interval(best), random: interval(random), full: interval(full) }
    });
    Ok(results.collect())
}
