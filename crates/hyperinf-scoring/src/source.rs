mod batch;
mod curvature;
mod projected;
mod replayed;
mod scaled;
mod task;

use hyperinf_gradients::Gradients;

pub use self::batch::{Batch, Samples};
pub use self::curvature::CurvatureSource;
pub use self::projected::{Moments, ProjectedSource, principal};
pub(crate) use self::replayed::Replayed;
pub use self::scaled::ScaledSource;
pub use self::task::{Baselines, TaskSource, baselines};

use crate::ScoreError;

/// Per-sample gradients, batch after batch, as often as a method needs them.
///
/// Every pass must give the same samples in the same order. The cut into batches may differ from pass to pass.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use hyperinf_gradients::{Block, Gradients};
/// use hyperinf_scoring::{Batch, CurvatureFrom, Options, ScoreError, Source, attribute};
///
/// /// Gradients that are computed on demand: here `[1, 2, 2]` of each of four samples.
/// struct Lazy(Device);
///
/// impl Source for Lazy {
///     fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
///         for sample in 1..=4 {
///             let gradient = Tensor::<3>::ones([1, 2, 2], &self.0).mul_scalar(sample);
///             let gradients = Gradients::new([Block::new("layer", 2, 2)], vec![gradient]);
///             visit(gradients.map_err(ScoreError::source)?.into())?;
///         }
///         Ok(())
///     }
/// }
///
/// /// Scores the four samples for themselves.
/// fn run(device: Device) -> Result<(), ScoreError> {
///     let source = Lazy(device);
///     let found = attribute(&source, &source, CurvatureFrom::Training, &Options::default())?;
///     assert_eq!((found.scores.queries(), found.scores.samples()), (4, 4));
///     Ok(())
/// }
/// ```
pub trait Source {
    /// Calls `visit` with each batch in turn and stops at its first error, which it returns.
    ///
    /// A source that has captures gives captures: a method that works on gradients multiplies them out, and a
    /// projection is cheaper before that.
    ///
    /// # Errors
    ///
    /// Whatever `visit` returns; [`ScoreError::source`] wraps an error of the source itself.
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError>;
}

impl Source for Gradients {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        visit(self.clone().into())
    }
}
