use std::borrow::Borrow;

use hyperinf_gradients::{Capture, Estimate, GradientError, Tape, Task, estimated};

use crate::{Batch, ScoreError, Set, Source};

/// The pseudo-samples of an [`Estimate`] of a task's curvature: the mean of their outer products is the curvature.
///
/// One or more per sample and pass of the estimate; the same in every pass, because their randomness comes from the
/// estimate's seed, the batch's index and the draw.
#[derive(Clone)]
pub struct CurvatureSource<'a, T, I> {
    /// The model with its loss; anything but [`Estimate::Empirical`] needs its [`Task::likelihood`].
    pub task: &'a T,
    /// The batches: a slice, or a lazy iterator that can be cloned.
    pub batches: I,
    /// What is backpropagated from the outputs.
    pub estimate: Estimate,
}

impl<T, I> CurvatureSource<'_, T, I>
where
    T: Task,
    I: IntoIterator + Clone,
    I::Item: Borrow<T::Batch>,
{
    /// The factor of each batch's pseudo-samples that turns the mean over batches into the mean over all samples;
    /// `None` if all factors are 1.
    ///
    /// The exact Gauss-Newton matrix takes as many passes over a batch as its longest sample has rows. A batch of `r`
    /// passes (per class) would weigh `r / mean(r)` times too much in the mean.
    pub fn factors(&self) -> Option<Vec<f64>> {
        let Estimate::GaussNewton { sketch: None } = self.estimate else { return None };
        let likelihoods =
            || self.batches.clone().into_iter().map(|batch| (self.task.likelihood(batch.borrow()), batch));
        let rows: Vec<usize> = likelihoods().map(|(found, _)| Some(found?.rows_per_sample())).collect::<Option<_>>()?;
        if rows.windows(2).all(|pair| pair[0] == pair[1]) {
            return None;
        }
        let samples: Vec<usize> = likelihoods()
            .map(|(found, batch)| match found.and_then(|likelihood| likelihood.samples) {
                Some(samples) => samples.iter().max().map_or(0, |&last| last + 1),
                None => self.task.forward(batch.borrow(), &mut Tape::off()).dims()[0],
            })
            .collect();
        let passes: usize = rows.iter().zip(&samples).map(|(rows, n)| rows * n).sum();
        let mean = passes as f64 / samples.iter().sum::<usize>() as f64;
        Some(rows.into_iter().map(|rows| (mean / rows as f64).sqrt()).collect())
    }

    /// The pseudo-samples of one batch by its index, with its factor of [`CurvatureSource::factors`].
    ///
    /// # Errors
    ///
    /// As [`Source::pass`].
    pub fn batch(
        &self,
        index: usize,
        factors: Option<&[f64]>,
        visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>,
    ) -> Result<(), ScoreError> {
        self.batches.clone().into_iter().nth(index).map_or(Ok(()), |batch| self.of(batch, index, factors, visit))
    }

    fn of(
        &self,
        batch: I::Item,
        index: usize,
        factors: Option<&[f64]>,
        visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>,
    ) -> Result<(), ScoreError> {
        let factor = factors.map_or(1.0, |factors| factors[index]);
        let scaled = |capture: Capture| Capture { delta: capture.delta.mul_scalar(factor), ..capture };
        estimated(self.task, batch.borrow(), index, self.estimate, |captures| {
            let captures = if factor == 1.0 { captures } else { captures.into_iter().map(scaled).collect() };
            visit(captures.into()).map_err(Stop)
        })
        .map_err(|Stop(error)| error)
    }
}

impl<T, I> Source for CurvatureSource<'_, T, I>
where
    T: Task,
    I: IntoIterator + Clone,
    I::Item: Borrow<T::Batch>,
{
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        let factors = self.factors();
        for (index, batch) in self.batches.clone().into_iter().enumerate() {
            self.of(batch, index, factors.as_deref(), visit)?;
        }
        Ok(())
    }
}

/// A [`ScoreError`] that an error of the curvature's gradients becomes.
struct Stop(ScoreError);

impl From<GradientError> for Stop {
    fn from(error: GradientError) -> Self {
        Self(ScoreError::gradients(Set::Curvature)(error))
    }
}
