use std::ops::ControlFlow;

use hyperinf_gradients::hyperinf_linalg::pearson;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::finetune::FinetuneConfig;
use super::recording::Recording;
use super::train::State;
use super::unroll::{Unroll, Unrolled};
use crate::error::check;
use crate::{ModelError, SampleModel};

/// How the derivative through a training changes when some samples leave it, and how well it foretold what that does.
///
/// A derivative says what a small change of a weight does. Where the training is smooth, samples that leave it change the
/// derivative for the others little (arXiv 2503.13751 calls that metasmoothness), and the measure as the scores say.
#[derive(Clone, Debug, PartialEq)]
pub struct Smoothness {
    /// The samples that left, in ascending order.
    pub left_out: Vec<usize>,
    /// The correlation (Pearson) of the scores of all other samples for the mean query, with and without those; `None` if
    /// one of the two is constant.
    pub correlation: Option<f64>,
    /// The change of the mean measure that the scores foretell: the sum of those of the samples that left.
    pub foretold: f64,
    /// The change that was found by training again.
    pub found: f64,
}

impl<M: SampleModel> Unroll<'_, M> {
    /// Takes a share of the samples out of the training (weight 0, everything else as it was), drawn from a seed, trains
    /// again, and differentiates again: one training and one derivative of the mean query more. `first` is the result of
    /// [`run`](Self::run). `after` is called after every step of either, with their number.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); [`ModelError::Setting`] if the share is not above 0 and below 1.
    pub fn smoothness(
        &self,
        first: &Unrolled,
        share: f64,
        seed: u64,
        mut after: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Smoothness, ModelError> {
        check(share > 0.0 && share < 1.0, "share", share, "above 0 and below 1")?;
        let n = self.train.len();
        let count = ((share * n as f64).round() as usize).clamp(1, n);
        let mut order: Vec<usize> = (0..n).collect();
        let (drawn, _) = order.partial_shuffle(&mut StdRng::seed_from_u64(seed), count);
        let mut left_out = drawn.to_vec();
        left_out.sort_unstable();

        let config = self.recording.config()?;
        let mut weights = config.weights.clone().unwrap_or_else(|| vec![1.0; n]);
        let removed: Vec<f64> = left_out.iter().map(|&row| std::mem::take(&mut weights[row])).collect();
        let config = FinetuneConfig { weights: Some(weights), ..config };
        let fresh = State::new(self.model.clone(), &config.schedule);
        let (start, _) = self.recording.state(0)?.into_state(fresh)?;
        let (steps, mut done) = (self.recording.steps(), 0);
        let mut step = |_: usize| {
            done += 1;
            after(done)
        };
        let every = Recording::usual_spacing(steps);
        let again = Recording::of_training(start.module, self.train, &config, every, Some(steps), &mut step)?;
        let other = Unroll { recording: &again, mean: true, ..*self }.run(&mut step)?;

        let queries = first.scores.len() as f64;
        let mean = |row: usize| first.scores.iter().map(|scores| scores[row]).sum::<f64>() / queries;
        let rest: Vec<usize> = (0..n).filter(|row| left_out.binary_search(row).is_err()).collect();
        let before: Vec<f64> = rest.iter().map(|&row| mean(row)).collect();
        let without: Vec<f64> = rest.iter().map(|&row| other.scores[0][row]).collect();
        let of = |measures: &[f64]| measures.iter().sum::<f64>() / measures.len() as f64;
        Ok(Smoothness {
            correlation: pearson(&before, &without).ok(),
            foretold: left_out.iter().zip(removed).map(|(&row, weight)| weight * mean(row)).sum(),
            found: of(&other.measures) - of(&first.measures),
            left_out,
        })
    }
}
