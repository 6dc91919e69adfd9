use burn::tensor::DType;
use hyperinf_gradients::Block;
use hyperinf_linalg::{MatrixError, ReadError};

use crate::Structure;

/// Why a curvature could not be accumulated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CurvatureError {
    /// The accumulator has seen no sample.
    #[error("block `{block}` has no samples")]
    Empty {
        /// The block's name.
        block: String,
    },
    /// A gradient is NaN or infinite, or so large that its squared norm overflows.
    #[error(
        "the gradient of sample {sample} in block `{block}` is not finite or too large (its squared norm is {value})"
    )]
    NonFinite {
        /// The block's name.
        block: String,
        /// The sample's index in the order given.
        sample: usize,
        /// The squared norm found.
        value: f64,
    },
    /// Gradients so small that their products underflow.
    #[error(
        "block `{block}` has gradients that are too small for {dtype:?}: their mean square is {mean_square:.1e}, and products below {least:.0e} lose digits"
    )]
    TooSmall {
        /// The block's name.
        block: String,
        /// The type of the gradients.
        dtype: DType,
        /// `mean(diag F)`, or the mean size of their products with the queries where there is no curvature.
        mean_square: f64,
        /// The smallest that is accepted.
        least: f64,
    },
    /// Damping is not a positive finite number.
    #[error("damping must be positive and finite, not {value}")]
    Damping {
        /// The value given.
        value: f64,
    },
    /// A matrix or the samples would not fit into memory.
    #[error(
        "block `{block}`: its curvature needs {what} of {rows} × {cols}, which would take {gib:.1} GiB (at most {limit_gib:.0})"
    )]
    TooLarge {
        /// The block's name.
        block: String,
        /// What is too large.
        what: &'static str,
        /// Its rows: `D`, the side that a factor keeps, or the samples.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// Its size.
        gib: f64,
        /// The largest size accepted.
        limit_gib: f64,
    },
    /// A low-rank approximation of rank 0.
    #[error("block `{block}`: the rank must be at least 1")]
    Rank {
        /// The block's name.
        block: String,
    },
    /// The storage needs captures, and was given per-sample gradients.
    #[error(
        "block `{block}`: a Kronecker product of inputs and output gradients needs both, not per-sample gradients alone"
    )]
    NeedsCaptures {
        /// The block's name.
        block: String,
    },
    /// The second pass over the samples is missing, or had another number of them.
    #[error("block `{block}`: {found} samples in the second pass, {expected} in the first")]
    SecondPass {
        /// The block's name.
        block: String,
        /// Samples of the second pass.
        found: usize,
        /// Samples of the first.
        expected: usize,
    },
    /// A curvature has another structure than a function needs.
    #[error("the curvature is {found:?} where {expected:?} is needed")]
    Structure {
        /// The structure needed.
        expected: Structure,
        /// The structure found.
        found: Structure,
    },
    /// Two accumulators cannot be merged.
    #[error("block `{block}`: two sums over samples have not the same {what}")]
    Merge {
        /// The block's name.
        block: String,
        /// What differs.
        what: &'static str,
    },
    /// An eigendecomposition failed: a value is not finite, or it did not converge.
    #[error("block `{block}`: the eigenvalues of {what}, of size {side}, cannot be computed")]
    Eigen {
        /// The block's name.
        block: String,
        /// The matrix.
        what: &'static str,
        /// Its side.
        side: usize,
    },
    /// A device failed while values were read back.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl CurvatureError {
    /// Names the block and the matrix that has no eigenvalues.
    pub(crate) fn eigen(block: &Block, what: &'static str) -> impl FnOnce(MatrixError) -> Self {
        let block = block.name.clone();
        move |error| match error {
            MatrixError::Read(error) => Self::Read(error),
            MatrixError::NonFinite { size: side }
            | MatrixError::NotPositiveDefinite { size: side, .. }
            | MatrixError::NotConverged { size: side } => Self::Eigen { block, what, side },
        }
    }
}
