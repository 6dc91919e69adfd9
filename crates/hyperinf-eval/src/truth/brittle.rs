use hyperinf_scoring::QueryMode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use serde_json::json;

use super::Truth;
use super::retrain::{best_first, check_scores, some, without};
use crate::{Bank, Bench, Figure, Findings, Interval, Job, Outcome, Retrain, Row, TruthError};

/// Brittleness: the numbers of samples to remove, the queries, and the trainings on the rest.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `remove` | 20, 40, 80 | how many of a query's most helpful samples are removed | ≥ 1, below n |
/// | `queries` | 0 to 9 | the queries inspected | of the task |
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

impl Truth for BrittlenessConfig {
    fn name(&self) -> &'static str {
        "brittleness"
    }

    fn figure(&self) -> &'static str {
        "growth of the loss in nats and share of changed predictions, means over queries; higher = better"
    }

    fn evaluate(&self, bench: &mut Bench<'_>) -> Result<Findings, TruthError> {
        let task = bench.config().task.task()?;
        let figures = |bench: &mut Bench<'_>, scores: &[Vec<f64>]| {
            let found = bench.retrain(&task, |bank, progress| brittleness(&task, scores, self, bank, progress))?;
            Ok::<_, TruthError>(found.iter().flat_map(Brittleness::figures).collect::<Vec<_>>())
        };
        let random = figures(bench, &random_scores(task.queries.len(), task.train.len(), 0))?;
        bench.add(Row::baseline("random", random));
        let ensemble = bench.train(&task, bench.seeds())?;
        bench.judge(&ensemble, QueryMode::Each, |bench, scores| figures(bench, &scores.rows))?;
        let about = format!(
            "Brittleness: the most helpful of {} training images removed for each of {} queries, {} seeds each; the \
             growth of the query's loss and the share of changed predictions.",
            task.train.len(),
            self.queries.len(),
            self.seeds.len(),
        );
        let details = [
            ("remove", json!(self.remove)),
            ("looked_at", json!(self.queries.len())),
            ("seeds", json!(self.seeds.len())),
        ];
        Ok(Findings::new(&task, about, details))
    }
}

impl Brittleness {
    fn figures(&self) -> [Figure; 4] {
        let Self { removed, growth, flipped } = self;
        let name = format!("growth_{removed}");
        let (low, high) = (format!("{name}_low"), format!("{name}_high"));
        let [growth, low, high] = Figure::interval([&name, &low, &high], Some(*growth));
        [growth, low, high, Figure::new(format!("flipped_{removed}"), flipped.map(|share| share.mean))]
    }
}

/// The effect of removing each query's most helpful samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Brittleness {
    /// Samples removed for each query.
    pub removed: usize,
    /// The mean over queries of `loss(without them) − loss(with all)`, each the mean over seeds.
    pub growth: Interval,
    /// The share of trainings that change the query's prediction, compared with all samples and the same seed: the mean
    /// over queries, its interval cut to `[0, 1]`; `None` if the task predicts no classes.
    pub flipped: Option<Interval>,
}

/// Removes each query's most helpful samples, trains on the rest, and measures the change of the query's loss and
/// prediction: one result per number in [`BrittlenessConfig::remove`] (Ilyas et al. 2022, section 4).
///
/// `scores` are `[q, n]`, positive = helpful. Compare with the result of [`random_scores`].
///
/// # Errors
///
/// If the scores are not `[q, n]`, a setting is out of range, or a training fails.
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

/// Random scores, `[q, n]`, uniform in [−1, 1): the baseline that every method must beat.
pub fn random_scores(queries: usize, samples: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..queries).map(|_| (0..samples).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}
