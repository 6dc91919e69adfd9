use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;

use super::retrain::{check_scores, count, some};
use crate::{Bank, EvalError, Interval, Job, Retrain, TruthError, spearman};

/// Which subsets are drawn, and how often each is trained on.
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

/// Random subsets of `round(share · samples)` samples each, ascending.
///
/// # Errors
///
/// If the share leaves no sample in or none out.
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

/// What retraining on random subsets gives: the truth of the linear datamodelling score.
#[derive(Clone, Debug, PartialEq)]
pub struct LdsTruth {
    /// The number of training samples, `n`.
    pub samples: usize,
    /// The samples of each subset.
    pub subsets: Vec<Vec<usize>>,
    /// The loss of each query after training on each subset, `[subset][seed][query]`.
    pub losses: Vec<Vec<Vec<f64>>>,
}

/// How well scores predict what retraining does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lds {
    /// Spearman's correlation of each query.
    pub queries: Vec<f64>,
    /// Their mean with an interval over the queries, cut to `[-1, 1]`.
    pub mean: Interval,
    /// Queries whose predictions are the same for all subsets: they say nothing, and count as 0.
    pub constant: usize,
}

impl LdsTruth {
    /// Retrains on random subsets, as far as the bank does not have them.
    ///
    /// # Errors
    ///
    /// If a setting is out of its range or a training fails.
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
    /// `scores` are `[q, n]`, positive = helpful: samples of high scores make the loss low. 1 is a perfect
    /// prediction of the order, 0 none.
    ///
    /// # Errors
    ///
    /// If the scores are not `[q, n]` or NaN, there are fewer than two subsets, or a query has the same loss after
    /// all of them.
    pub fn lds(&self, scores: &[Vec<f64>]) -> Result<Lds, TruthError> {
        let truth = self.truth(0, 1);
        count("rows of scores", scores.len(), truth.len())?;
        let mut predictions = Vec::with_capacity(scores.len());
        for row in scores {
            count("scores of a query", row.len(), self.samples)?;
            predictions.push(self.subsets.iter().map(|subset| subset.iter().map(|&i| row[i]).sum()).collect());
        }
        correlate(&predictions, &truth)
    }

    /// How well half of the seeds predicts the other half: what noise of training leaves to be predicted. `None` with
    /// fewer than two seeds.
    ///
    /// Scores that predicted the expected loss perfectly would reach about the root of this with as many seeds as a
    /// half has.
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
    fn truth(&self, start: usize, step: usize) -> Vec<Vec<f64>> {
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
