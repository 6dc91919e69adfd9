use std::borrow::Borrow;

use hyperinf_gradients::{Estimate, Target, Task, capture};
use hyperinf_linalg::host;

use crate::block_rows::BatchRows;
use crate::{Batch, CurvatureSource, ScoreError, Set, Source};

/// The captures of a task's batches, computed in every pass.
#[derive(Clone)]
pub struct TaskSource<'a, T, I> {
    /// The model with its loss.
    pub task: &'a T,
    /// The batches: a slice, or a lazy iterator that can be cloned.
    pub batches: I,
    /// Queries are differentiated by [`Task::measure`], training samples by [`Task::loss`].
    pub set: Set,
}

impl<'a, T, I> TaskSource<'a, T, I> {
    /// Training samples.
    pub fn train(task: &'a T, batches: I) -> Self {
        Self { task, batches, set: Set::Train }
    }

    /// Queries.
    pub fn query(task: &'a T, batches: I) -> Self {
        Self { task, batches, set: Set::Query }
    }

    /// The pseudo-samples of an estimate of the curvature, for [`CurvatureFrom::Source`](crate::CurvatureFrom::Source).
    pub fn curvature(task: &'a T, batches: I, estimate: Estimate) -> CurvatureSource<'a, T, I> {
        CurvatureSource { task, batches, estimate }
    }

    fn target(&self) -> Target {
        match self.set {
            Set::Train | Set::Curvature => Target::Loss,
            Set::Query | Set::Contrast => Target::Measure,
        }
    }
}

impl<T, I> Source for TaskSource<'_, T, I>
where
    T: Task,
    I: IntoIterator + Clone,
    I::Item: Borrow<T::Batch>,
{
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        for batch in self.batches.clone() {
            let found = capture(self.task, batch.borrow(), self.target()).map_err(ScoreError::gradients(self.set))?;
            visit(found.blocks.into())?;
        }
        Ok(())
    }
}

/// Two measures that need neither curvature nor queries: every attribution should do better.
#[derive(Clone, Debug, Default)]
pub struct Baselines {
    /// The training loss of each sample.
    pub losses: Vec<f64>,
    /// The norm of each sample's gradient over all blocks.
    pub gradient_norms: Vec<f64>,
}

/// Training losses and gradient norms, in one pass.
///
/// # Errors
///
/// If gradients cannot be computed or are not finite.
pub fn baselines<T, I>(task: &T, batches: I) -> Result<Baselines, ScoreError>
where
    T: Task,
    I: IntoIterator,
    I::Item: Borrow<T::Batch>,
{
    let mut found = Baselines::default();
    for batch in batches {
        let captures = capture(task, batch.borrow(), Target::Loss).map_err(ScoreError::gradients(Set::Train))?;
        found.losses.extend(host(captures.values)?);
        if let Some(batch) = BatchRows::new(captures.blocks.into(), false, Set::Train)? {
            let squares = batch.squared_norms(found.gradient_norms.len(), Set::Train)?;
            found.gradient_norms.extend(squares.into_iter().map(f64::sqrt));
        }
    }
    Ok(found)
}
