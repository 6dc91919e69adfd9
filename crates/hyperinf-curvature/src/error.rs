/// What data or settings can do wrong while curvature is accumulated.
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
    /// Damping is not a positive finite number.
    #[error("damping must be positive and finite, not {value}")]
    Damping {
        /// The value given.
        value: f64,
    },
    /// A matrix would not fit.
    #[error(
        "block `{block}`: its curvature, a matrix of side {parameters}, would take {gib:.1} GiB (at most {limit_gib:.0})"
    )]
    TooLarge {
        /// The block's name.
        block: String,
        /// The side of the matrix: `D`, or the side that a factor keeps.
        parameters: usize,
        /// The matrix's size.
        gib: f64,
        /// The largest size accepted.
        limit_gib: f64,
    },
    /// A device failed while values were read back.
    #[error("reading values back from the device failed: {0}")]
    Read(String),
}
