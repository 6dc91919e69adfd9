use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::retrain::{best_first, check_scores, some, without};
use crate::{Bank, Interval, Job, Outcome, Retrain, TruthError};

/// What is removed, for whom, and how often the rest is trained on.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `remove` | 20, 40, 80 | how many of a query's most helpful samples are removed | ≥ 1, below n |
/// | `queries` | 0 to 9 | the queries that are looked at | of the task |
/// | `seeds` | 0 to 2 | trainings on the rest, and on all samples | at least one |
#[derive(Clone, Debug, PartialEq)]
pub struct BrittlenessConfig {
    /// The numbers of samples to remove.
    pub remove: Vec<usize>,
    /// The queries.
    pub queries: Vec<usize>,
    /// The seeds of the trainings.
    pub seeds: Vec<u64>,
}

impl Default for BrittlenessConfig {
    fn default() -> Self {
        Self { remove: vec![20, 40, 80], queries: (0..10).collect(), seeds: (0..3).collect() }
    }
}

/// What removing the most helpful samples did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Brittleness {
    /// Samples removed for each query.
    pub removed: usize,
    /// The mean over queries of `loss(without them) − loss(with all)`, each the mean over seeds.
    pub growth: Interval,
    /// The share of trainings in which the query's prediction is another than with all samples and the same seed, a mean
    /// over queries, its interval cut to `[0, 1]`; `None` if the task predicts no classes.
    pub flipped: Option<Interval>,
}

/// Removes each query's most helpful samples, trains on the rest, and looks at what becomes of the query: one result
/// per number of [`BrittlenessConfig::remove`] (Ilyas et al. 2022, section 4).
///
/// `scores` are `[q, n]`, positive = helpful. Hold it against [`random_scores`].
///
/// # Errors
///
/// If the scores are not `[q, n]`, a setting is out of its range, or a training fails.
pub fn brittleness(
    task: &dyn Retrain,
    scores: &[Vec<f64>],
    config: &BrittlenessConfig,
    bank: &mut Bank,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Brittleness>, TruthError> {
    check_scores(task, scores)?;
    let BrittlenessConfig { remove, queries, seeds } = config;
    let n = task.samples();
    some("seeds", seeds.len())?;
    some("queries", queries.len())?;
    within("a query", queries, 0, task.queries())?;
    within("the number of removed samples", remove, 1, n)?;
    let mut jobs: Vec<Job> = seeds.iter().map(|&seed| ((0..n).collect(), seed)).collect();
    for &count in remove {
        for &query in queries {
            let rest = without(n, &best_first(&scores[query])[..count]);
            jobs.extend(seeds.iter().map(|&seed| (rest.clone(), seed)));
        }
    }
    let outcomes = bank.outcomes(task, &jobs, progress)?;
    let (full, reduced) = outcomes.split_at(seeds.len());
    let results = remove.iter().zip(reduced.chunks(queries.len() * seeds.len())).map(|(&removed, trainings)| {
        let (mut growth, mut flipped) = (Vec::new(), Vec::new());
        for (&query, trainings) in queries.iter().zip(trainings.chunks(seeds.len())) {
            let pairs = || trainings.iter().zip(full);
            let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
            growth.push(mean(pairs().map(|(less, full)| less.losses[query] - full.losses[query]).collect()));
            let flips: Option<Vec<f64>> = pairs().map(|(less, full)| flip(less, full, query)).collect();
            flipped.extend(flips.map(mean));
        }
        let growth = Interval::of(&growth).expect("there is a query");
        let flipped = Interval::of(&flipped).map(|share| share.within(0.0, 1.0));
        Brittleness { removed, growth, flipped }
    });
    Ok(results.collect())
}

fn flip(less: &Outcome, full: &Outcome, query: usize) -> Option<f64> {
    let (less, full) = (less.predictions.as_ref()?, full.predictions.as_ref()?);
    Some(f64::from(u8::from(less[query] != full[query])))
}

fn within(name: &'static str, values: &[usize], low: usize, high: usize) -> Result<(), TruthError> {
    match values.iter().find(|&&value| value < low || value >= high) {
        None => Ok(()),
        Some(&value) => {
            Err(TruthError::Setting { name, expected: format!("from {low} to {}", high - 1), value: value as f64 })
        }
    }
}

/// Scores that know nothing, `[q, n]`, uniform in [−1, 1): what every method must beat.
pub fn random_scores(queries: usize, samples: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..queries).map(|_| (0..samples).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}
