use std::path::Path;

use burn::tensor::Device;
use hyperinf_curvature::BlockCurvature;
use hyperinf_linalg::ranks;
use hyperinf_scoring::{Normalisation, Options, QueryMode};
use hyperinf_store::{Directions, GradientPair};
use serde::{Deserialize, Serialize};

use crate::crew_blocks::Job;
use crate::run::Run;
use crate::{Prediction, RunError};

/// The most validation rows of a cross-check, which needs the scores of all their pairs.
const MOST: usize = 2000;
/// Standard errors from which a difference of two areas is no chance.
const ERRORS: f64 = 2.0;

/// How well scores and losses find wrong labels among the validation rows of a classifier of two classes, where every
/// row is judged with its own label, which counts as right, and with the other one.
///
/// No row is run again: with the other label the gradient of every parameter is `−p / (1 − p)` times the row's own,
/// where `p = e^−loss` is the probability of its label, and the loss is `−log(1 − p)`. A row is scored for the mean of
/// the other validation rows by the curvature of the training rows, as a training row is.
///
/// The model was not trained on these rows, so both detectors are better here than on training rows whose wrong labels
/// it has learned. What carries over is which of them is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossCheck {
    /// The validation rows.
    pub rows: usize,
    /// The area under the ROC curve of the lowest scores: how likely a wrong label has a lower score than a right one.
    pub auc_score: f64,
    /// That of the highest losses.
    pub auc_loss: f64,
    /// The standard error of their difference (DeLong et al. 1988).
    pub error: f64,
}

impl CrossCheck {
    /// Whether the losses are clearly the better detector, by more than two standard errors.
    pub fn prefers_loss(&self) -> bool {
        self.auc_loss - self.auc_score > ERRORS * self.error
    }

    /// From scores and predictions of validation rows; `None` with fewer than two rows that have a gradient.
    ///
    /// `pairs[i][j]` is the score of row `j`, as a training row, for row `i`; divided by a norm of row `j`'s gradient
    /// if `normalised`.
    pub(crate) fn new(pairs: &[Vec<f64>], predictions: &[Prediction], normalised: bool) -> Option<Self> {
        let (mut own, mut other) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for (j, prediction) in predictions.iter().enumerate() {
            let (right, wrong) = ((-prediction.loss).exp(), -(-prediction.loss).exp_m1());
            if wrong <= 0.0 || right <= 0.0 {
                continue;
            }
            let sum: f64 = (0..pairs.len()).filter(|&i| i != j).map(|i| pairs[i][j]).sum();
            let score = sum / (pairs.len() - 1) as f64;
            let factor = if normalised { 1.0 } else { right / wrong };
            // The more suspicious the higher.
            own[0].push(-score);
            other[0].push(factor * score);
            own[1].push(prediction.loss);
            other[1].push(-wrong.ln());
        }
        let rows = own[0].len();
        if rows < 2 {
            return None;
        }
        let [scores, losses] = [0, 1].map(|which| Placements::new(&own[which], &other[which]));
        // The influence of each row on the difference.
        let of = |row: usize| losses.of(row) - scores.of(row);
        let mean = (0..rows).map(of).sum::<f64>() / rows as f64;
        let variance = (0..rows).map(|row| (of(row) - mean).powi(2)).sum::<f64>() / (rows - 1) as f64;
        let error = (variance / rows as f64).sqrt();
        Some(Self { rows, auc_score: scores.auc, auc_loss: losses.auc, error })
    }
}

/// The area under a ROC curve with each row's part in it.
struct Placements {
    auc: f64,
    /// The share of right labels that are less suspicious than the row's wrong one, ties counting half.
    above: Vec<f64>,
    /// The share of wrong labels that are more suspicious than the row's right one.
    below: Vec<f64>,
}

impl Placements {
    fn new(own: &[f64], other: &[f64]) -> Self {
        let n = own.len();
        let all = ranks(&[own, other].concat());
        let (of_own, of_other) = (ranks(own), ranks(other));
        // A rank among all less that among its own kind counts the other kind's smaller values.
        let above: Vec<f64> = (0..n).map(|row| (all[n + row] - of_other[row]) / n as f64).collect();
        let below: Vec<f64> = (0..n).map(|row| 1.0 - (all[row] - of_own[row]) / n as f64).collect();
        Self { auc: above.iter().sum::<f64>() / n as f64, above, below }
    }

    fn of(&self, row: usize) -> f64 {
        self.above[row] + self.below[row]
    }
}

/// The files and choices of a scoring.
pub(crate) struct Scoring<'a> {
    pub(crate) train: &'a Path,
    pub(crate) query: &'a Path,
    pub(crate) known: Option<&'a [BlockCurvature]>,
    /// The run, with its ranks.
    pub(crate) run: &'a Run,
}

impl Scoring<'_> {
    /// The cross-check of a classifier of two classes; `None` where there is none: for one validation row, for very
    /// many, or if blocks are projected on principal directions, which are those of the training rows.
    pub(crate) fn cross_check(
        &self,
        predictions: &[Prediction],
        device: &Device,
    ) -> Result<Option<CrossCheck>, RunError> {
        let Run { projection, options, .. } = self.run;
        let principal = projection.is_some_and(|spec| spec.directions == Directions::Principal);
        if !(2..=MOST).contains(&predictions.len()) || principal {
            return Ok(None);
        }
        let mut pair = GradientPair::open(self.query, self.query)?.with(Some(self.train), None)?;
        pair.project(*projection, device)?;
        let options = &Options { query: QueryMode::Each, block_scores: false, ..options.clone() };
        let job = Job { run: self.run, pair: &pair, known: self.known, options, draw: 0, device };
        let pairs = job.score()?.scores.rows;
        Ok(CrossCheck::new(&pairs, predictions, options.normalisation != Normalisation::None))
    }
}
