mod curvature;
mod projected;

use std::borrow::Borrow;
use std::sync::Arc;

use hyperinf_gradients::{Block, Capture, Estimate, Gradients, Target, Task, capture, gradients};
use hyperinf_linalg::host;

pub use self::curvature::CurvatureSource;
pub use self::projected::{Moments, ProjectedSource, principal};

use crate::passes::squares;
use crate::{ScoreError, Set};

/// Per-sample gradients that can be gone through, batch after batch, as often as a method needs.
///
/// Every pass must give the same samples in the same order.
pub trait Source {
    /// Calls `visit` with each batch in turn and stops at its first error.
    ///
    /// # Errors
    ///
    /// Whatever `visit` returns, or that the gradients cannot be had.
    fn pass(&self, visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>) -> Result<(), ScoreError>;

    /// Whether [`Source::pass_captures`] gives the batches: a projection then takes those.
    fn has_captures(&self) -> bool {
        false
    }

    /// The blocks before they were projected, if they were: a side is the shorter one by these, since afterwards both are
    /// often equal.
    fn unprojected(&self) -> Option<Arc<[Block]>> {
        None
    }

    /// The same batches before inputs and what came back are multiplied out; for sources that have them.
    ///
    /// # Errors
    ///
    /// [`ScoreError::NoCaptures`] unless the source has them; otherwise as [`Source::pass`].
    fn pass_captures(&self, visit: &mut dyn FnMut(Vec<Capture>) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        let _ = visit;
        Err(ScoreError::NoCaptures)
    }
}

impl Source for Gradients {
    fn pass(&self, visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        visit(self.clone())
    }
}

/// The gradients of a task's batches, taken anew in every pass.
#[derive(Clone)]
pub struct TaskSource<'a, T, I> {
    /// The model with its loss.
    pub task: &'a T,
    /// The batches: a slice of them, or a lazy iterator that can be cloned.
    pub batches: I,
    /// What they are; queries are differentiated by [`Task::measure`], training samples by [`Task::loss`].
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

    /// The pseudo-samples of an estimate of the curvature, for [`attribute_with`](crate::attribute_with).
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
    fn pass(&self, visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        for batch in self.batches.clone() {
            visit(gradients(self.task, batch.borrow(), self.target()).map_err(ScoreError::gradients(self.set))?)?;
        }
        Ok(())
    }

    fn has_captures(&self) -> bool {
        true
    }

    fn pass_captures(&self, visit: &mut dyn FnMut(Vec<Capture>) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        for batch in self.batches.clone() {
            let found = capture(self.task, batch.borrow(), self.target()).map_err(ScoreError::gradients(self.set))?;
            visit(found.blocks)?;
        }
        Ok(())
    }
}

/// What needs no curvature and no query: every attribution has to beat it.
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
/// If gradients cannot be taken or are not finite.
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
        let gradients = Gradients {
            layout: captures.blocks.iter().map(|c| c.block.clone()).collect(),
            blocks: captures.blocks.iter().map(|c| c.gradients()).collect(),
        };
        let squares = squares(&gradients, found.gradient_norms.len(), Set::Train)?;
        found.gradient_norms.extend(squares.into_iter().map(f64::sqrt));
    }
    Ok(found)
}
