use hyperinf_scoring::QueryMode;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;
use serde_json::json;

use super::Truth;
use super::retrain::{check_scores, count, some};
use crate::{Bank, Bench, EvalError, Figure, Findings, Interval, Job, Retrain, TruthError, spearman};

/// The linear datamodelling score: the subsets, and the trainings on each.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `subsets` | 100 | random subsets | ≥ 2 |
/// | `share` | 0.5 | α: the share of the samples in each | 0 < α < 1 |
/// | `seeds` | 0 to 4 | trainings on each, whose losses are averaged | at least one |
/// | `draw` | 0 | the seed that draws the subsets | |
#[derive(Clone, Debug, PartialEq)]
pub struct LdsConfig {
    /// The number of subsets.
    pub subsets: usize,
    /// The share of the samples in each.
    pub share: f64,
    /// The seeds of the trainings on each.
    pub seeds: Vec<u64>,
    /// The seed that draws the subsets.
    pub draw: u64,
}

impl Default for LdsConfig {
    fn default() -> Self {
        Self { subsets: 100, share: 0.5, seeds: (0..5).collect(), draw: 0 }
    }
}

impl Truth for LdsConfig {
    fn name(&self) -> &'static str {
        "lds"
    }

    fn figure(&self) -> &'static str {
        "Spearman's correlation over subsets of the summed scores with the negative loss, mean over queries, in [-1, 1]; higher = better"
    }

    fn evaluate(&self, bench: &mut Bench<'_>) -> Result<Findings, TruthError> {
        let task = bench.config().task.task()?;
        let (kept, truth) =
            bench.retrain(&task, |bank, progress| Ok((bank.len(), LdsTruth::retrain(&task, self, bank, progress)?)))?;
        let seconds = bench.seconds();
        let agreement = truth.agreement()?.map(|agreement| agreement.mean);
        let ensemble = bench.train(&task, bench.seeds())?;
        bench.judge(&ensemble, QueryMode::Each, |_, scores| {
            let found = truth.lds(&scores.rows)?;
            let mut figures = Figure::interval(["lds", "low", "high"], Some(found.mean)).to_vec();
            figures.push(Figure::new("constant", found.constant as f64));
            Ok(figures)
        })?;
        let half = agreement.map_or("–".into(), |mean| mean.to_string());
        let about = format!(
            "Linear datamodelling score over {} queries: {} subsets of {} of {} training images, {} seeds each, scores of \
             {} trained model(s).\nHalf of the seeds predicts the other half with {half}.",
            task.queries.len(),
            self.subsets,
            truth.subsets.first().map_or(0, Vec::len),
            task.train.len(),
            self.seeds.len(),
            bench.config().models,
        );
        let details = [
            ("subsets", json!(self.subsets)),
            ("share", json!(self.share)),
            ("seeds", json!(self.seeds.len())),
            ("results_found_in_the_bank", json!(kept)),
            ("retraining_seconds", json!(seconds)),
            ("agreement_of_halves_of_the_seeds", json!(agreement)),
        ];
        Ok(Findings::new(&task, about, details))
    }
}

/// Random subsets of `round(share · samples)` samples each, ascending.
///
/// # Errors
///
/// If the share keeps no sample or all of them.
pub fn random_subsets(samples: usize, share: f64, subsets: usize, draw: u64) -> Result<Vec<Vec<usize>>, TruthError> {
    let size = (share * samples as f64).round();
    if !(size >= 1.0 && size < samples as f64) {
        let expected = format!("a share that keeps some of {samples} samples and leaves some out");
        return Err(TruthError::Setting { name: "share", expected, value: share });
    }
    let mut rng = StdRng::seed_from_u64(draw);
    let mut all: Vec<usize> = (0..samples).collect();
    let mut subset = || {
        let (first, _) = all.partial_shuffle(&mut rng, size as usize);
        let mut first = first.to_vec();
        first.sort_unstable();
        first
    };
    Ok((0..subsets).map(|_| subset()).collect())
}

/// Losses after retraining on random subsets: the truth of the linear datamodelling score.
#[derive(Clone, Debug, PartialEq)]
pub struct LdsTruth {
    /// The number of training samples, `n`.
    pub samples: usize,
    /// The samples of each subset.
    pub subsets: Vec<Vec<usize>>,
    /// The loss of each query after training on each subset, `[subset][seed][query]`.
    pub losses: Vec<Vec<Vec<f64>>>,
}

/// How well scores predict the losses after retraining.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lds {
    /// Spearman's correlation of each query.
    pub queries: Vec<f64>,
    /// Their mean with an interval over the queries, cut to `[-1, 1]`.
    pub mean: Interval,
    /// Queries whose predictions are the same for all subsets; they count as 0.
    pub constant: usize,
}

impl LdsTruth {
    /// Retrains on random subsets, unless the bank has the results.
    ///
    /// # Errors
    ///
    /// If a setting is out of range or a training fails.
    pub fn retrain(
        task: &dyn Retrain,
        config: &LdsConfig,
        bank: &mut Bank,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self, TruthError> {
        some("seeds", config.seeds.len())?;
        let subsets = random_subsets(task.samples(), config.share, config.subsets, config.draw)?;
        let job = |subset: &Vec<usize>| config.seeds.iter().map(|&seed| (subset.clone(), seed)).collect::<Vec<Job>>();
        let jobs: Vec<Job> = subsets.iter().flat_map(job).collect();
        let outcomes = bank.outcomes(task, &jobs, progress)?;
        let losses: Vec<Vec<f64>> = outcomes.into_iter().map(|outcome| outcome.losses).collect();
        let losses = losses.chunks(config.seeds.len()).map(<[_]>::to_vec).collect();
        Ok(Self { samples: task.samples(), subsets, losses })
    }

    /// The linear datamodelling score (Park et al. 2023, section 2): for each query Spearman's correlation, over the
    /// subsets, of the summed scores of a subset with the *negative* mean loss after training on it.
    ///
    /// `scores` are `[q, n]`, positive = helpful: training on samples with high scores lowers the loss. 1 means that
    /// the order is predicted perfectly, 0 not at all.
    ///
    /// # Errors
    ///
    /// If the scores are not `[q, n]`, a score is NaN, there are fewer than two subsets, or a query has the same loss
    /// after all of them.
    pub fn lds(&self, scores: &[Vec<f64>]) -> Result<Lds, TruthError> {
        let predictions = self.predictions(scores)?;
        let truth = self.truth(0, 1);
        correlate(&predictions, &truth)
    }

    /// The summed scores of each subset, `[query][subset]`.
    pub(super) fn predictions(&self, scores: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, TruthError> {
        let queries = self.losses.first().and_then(|seeds| seeds.first()).map_or(0, Vec::len);
        count("rows of scores", scores.len(), queries)?;
        let mut predictions = Vec::with_capacity(scores.len());
        for row in scores {
            count("scores of a query", row.len(), self.samples)?;
            predictions.push(self.subsets.iter().map(|subset| subset.iter().map(|&i| row[i]).sum()).collect());
        }
        Ok(predictions)
    }

    /// How well half of the seeds predicts the other half: the ceiling that training noise sets. `None` with fewer than
    /// two seeds.
    ///
    /// Scores that predict the expected loss perfectly reach about the root of this value, with as many seeds as a half
    /// has.
    ///
    /// # Errors
    ///
    /// As [`LdsTruth::lds`].
    pub fn agreement(&self) -> Result<Option<Lds>, TruthError> {
        if self.losses.first().is_none_or(|seeds| seeds.len() < 2) {
            return Ok(None);
        }
        correlate(&self.truth(0, 2), &self.truth(1, 2)).map(Some)
    }

    /// `−loss`, the mean over every `step`-th seed from `start` on, `[query][subset]`.
    pub(super) fn truth(&self, start: usize, step: usize) -> Vec<Vec<f64>> {
        let queries = self.losses.first().and_then(|seeds| seeds.first()).map_or(0, Vec::len);
        let mean = |seeds: &Vec<Vec<f64>>, query: usize| {
            let chosen: Vec<f64> = seeds.iter().skip(start).step_by(step).map(|losses| losses[query]).collect();
            -chosen.iter().sum::<f64>() / chosen.len() as f64
        };
        (0..queries).map(|query| self.losses.iter().map(|seeds| mean(seeds, query)).collect()).collect()
    }
}

fn correlate(predictions: &[Vec<f64>], truth: &[Vec<f64>]) -> Result<Lds, TruthError> {
    let mut constant = 0;
    let mut queries = Vec::with_capacity(truth.len());
    for (query, (predicted, truth)) in predictions.iter().zip(truth).enumerate() {
        let same = predicted.windows(2).all(|pair| pair[0] == pair[1]);
        let varies = truth.windows(2).any(|pair| pair[0] != pair[1]);
        queries.push(if same && varies {
            constant += 1;
            0.0
        } else {
            spearman(predicted, truth).map_err(|source| TruthError::Query { query, source })?
        });
    }
    let mean = Interval::of(&queries).ok_or(EvalError::Constant { count: 0 })?;
    Ok(Lds { queries, mean: mean.within(-1.0, 1.0), constant })
}

/// The linear datamodelling score in one call.
///
/// # Errors
///
/// As [`LdsTruth::retrain`] and [`LdsTruth::lds`].
pub fn lds(task: &dyn Retrain, scores: &[Vec<f64>], config: &LdsConfig, bank: &mut Bank) -> Result<Lds, TruthError> {
    check_scores(task, scores)?;
    LdsTruth::retrain(task, config, bank, &|_, _| {})?.lds(scores)
}
