use std::error::Error;

use burn::tensor::DType;
use hyperinf_curvature::CurvatureError;
use hyperinf_gradients::GradientError;
use hyperinf_linalg::ReadError;
use hyperinf_solvers::SolveError;

/// The set of samples that an error concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// The training samples.
    Train,
    /// The queries.
    Query,
    /// The samples of the curvature, where they are not the training samples.
    Curvature,
    /// The queries that a contrast subtracts.
    Contrast,
}

impl std::fmt::Display for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "training",
            Self::Query => "query",
            Self::Curvature => "curvature",
            Self::Contrast => "contrast",
        })
    }
}

/// Why samples cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// A set has no samples or no blocks.
    #[error("there are no {set} {what}")]
    Empty {
        /// The set.
        set: Set,
        /// What is missing.
        what: &'static str,
    },
    /// A gradient is NaN or infinite, or so large that its squared norm overflows.
    #[error(
        "{set} sample {sample} has a gradient in block `{block}` that is not finite or too large (its squared norm is {value})"
    )]
    NonFinite {
        /// The set.
        set: Set,
        /// The block's name.
        block: String,
        /// The sample's index in the order given.
        sample: usize,
        /// The squared norm found.
        value: f64,
    },
    /// A score overflowed although every gradient is finite.
    #[error(
        "the score of training sample {sample} for query {query} is {value}: the gradients are too large for their type"
    )]
    Overflow {
        /// The query's index.
        query: usize,
        /// The training sample's index.
        sample: usize,
        /// The score found.
        value: f64,
    },
    /// The scores of a query are too small for f64.
    #[error(
        "the scores of query {query} are at most {largest:.1e} · 2^{power}, too small for f64: scale the gradients of both sets up by one factor"
    )]
    Underflow {
        /// The query's index.
        query: usize,
        /// The largest score, over the power of two.
        largest: f64,
        /// The power.
        power: i32,
    },
    /// `λ` is below the rounding of the curvature that it is added to.
    #[error(
        "block `{block}`: the damping λ = {lambda:.2e} is lost in the rounding of the curvature in {dtype:?}; expected at least {least:.2e}"
    )]
    DampingLost {
        /// The block's name.
        block: String,
        /// The damping.
        lambda: f64,
        /// The smallest that is accepted: the type's precision times the trace of the curvature.
        least: f64,
        /// The type of the curvature's sums.
        dtype: DType,
    },
    /// The squared divisor of a normalised score is negative or not finite.
    #[error(
        "the score of {set} sample {sample} is to be divided by the root of {value:e}: expected 0 or a number from 1e-290 to 1e308"
    )]
    Divisor {
        /// The set.
        set: Set,
        /// The sample's index.
        sample: usize,
        /// The squared norm or self-influence found.
        value: f64,
    },
    /// Two passes or parts have different numbers of samples.
    #[error("{set} samples: {found} where {expected} were seen before")]
    SampleCount {
        /// The set.
        set: Set,
        /// The number now.
        found: usize,
        /// The number before.
        expected: usize,
    },
    /// There are no checkpoints to sum over.
    #[error("there are no checkpoints")]
    NoCheckpoints,
    /// A learning rate is not positive and finite.
    #[error("the learning rate of checkpoint {checkpoint} must be positive and finite, not {value}")]
    LearningRate {
        /// The checkpoint's index.
        checkpoint: usize,
        /// The value given.
        value: f64,
    },
    /// Layers see positions that do not correspond.
    #[error("block `{block}` has {found} positions per sample, where another block has {expected}")]
    Positions {
        /// The block's name.
        block: String,
        /// Its positions.
        found: usize,
        /// Those of another block.
        expected: usize,
    },
    /// A share or count is out of range.
    #[error("{what} must be {expected}, not {value}")]
    Amount {
        /// The parameter.
        what: &'static str,
        /// Its range.
        expected: String,
        /// The value given.
        value: f64,
    },
    /// The samples whose products were computed do not suffice for a choice among them.
    #[error("{chosen} of {wanted} samples were chosen when the pool of the {pool} with the highest scores ran out")]
    Pool {
        /// The samples of the pool.
        pool: usize,
        /// Those chosen.
        chosen: usize,
        /// Those to choose.
        wanted: usize,
    },
    /// A source failed, because its file cannot be read, for example.
    #[error(transparent)]
    Source(Box<dyn Error + Send + Sync>),
    /// Gradients could not be computed.
    #[error("gradients of {set} samples")]
    Gradients {
        /// The set.
        set: Set,
        /// Why.
        #[source]
        source: GradientError,
    },
    /// A projection does not fit the gradients.
    #[error("the projection of the gradients")]
    Projection(#[source] GradientError),
    /// A device failed while values were read back.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Curvature could not be accumulated.
    #[error(transparent)]
    Curvature(CurvatureError),
    /// A curvature needs captures, and the source has only gradients.
    #[error(
        "this curvature needs layer inputs and output gradients; the source has only per-sample gradients, for which the nearest structure is two-sided (`shampoo`)"
    )]
    NoCaptures,
    /// A block has relative damping and zero curvature, of other samples, but its training gradients are not zero.
    #[error(
        "block `{block}` has training gradients but no curvature: its samples' gradients are all zero, and so is relative damping; give an absolute damping"
    )]
    NoCurvature {
        /// The block's name.
        block: String,
    },
    /// A segment's curvature has no eigenvectors that are known.
    #[error(
        "block `{block}`: the eigenvectors of this curvature are not known; two-sided, Kronecker, diagonal and low-rank ones are"
    )]
    NoEigenvalues {
        /// The block's name.
        block: String,
    },
    /// A method without an inverse was to be refined.
    #[error("the method has no curvature, so there is no inverse to refine")]
    NothingToRefine,
    /// A refined inverse was to have a divisor that needs the inverse for every training row.
    #[error(
        "a refined inverse has no scores normalised by {normalisation}: they need the inverse for every training row"
    )]
    RefinedDivisor {
        /// The name of the normalisation.
        normalisation: &'static str,
    },
    /// A block could not be inverted.
    #[error("block `{block}`")]
    Solve {
        /// The block's name.
        block: String,
        /// Why.
        #[source]
        source: SolveError,
    },
}

impl ScoreError {
    /// An error of a [`Source`](crate::Source)'s own, to be returned from its pass.
    pub fn source(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Source(error.into())
    }

    pub(crate) fn gradients(set: Set) -> impl Fn(GradientError) -> Self {
        move |source| match source {
            GradientError::NonFinite { block, sample, value } => Self::NonFinite { set, block, sample, value },
            source => Self::Gradients { set, source },
        }
    }

    /// An error of the curvature over the samples of a set.
    pub(crate) fn curvature(set: Set) -> impl Fn(CurvatureError) -> Self {
        move |error| match error {
            CurvatureError::NonFinite { block, sample, value } => Self::NonFinite { set, block, sample, value },
            other => Self::Curvature(other),
        }
    }
}

impl From<CurvatureError> for ScoreError {
    fn from(error: CurvatureError) -> Self {
        Self::curvature(Set::Train)(error)
    }
}
