/// A device failed while values were read back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading values back from the device failed: {reason}")]
pub struct ReadError {
    /// What the device reported.
    pub reason: String,
}

/// Why a matrix on the host has no decomposition.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MatrixError {
    /// An entry is NaN or infinite.
    #[error("a matrix of size {size} has an entry that is not finite")]
    NonFinite {
        /// The matrix's side.
        size: usize,
    },
    /// There is no Cholesky factor.
    #[error("a matrix of size {size} with {shift:.3e} on its diagonal is not positive definite")]
    NotPositiveDefinite {
        /// The matrix's side.
        size: usize,
        /// What was added to its diagonal.
        shift: f64,
    },
    /// The iteration for eigenvalues or singular values did not converge.
    #[error("the decomposition of a matrix of size {size} did not converge")]
    NotConverged {
        /// The matrix's side.
        size: usize,
    },
    /// The entries could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a statistic does not exist for some values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatisticsError {
    /// Two series differ in length.
    #[error("{left} values against {right}: both series must have the same length")]
    Length {
        /// Length of the first.
        left: usize,
        /// Length of the second.
        right: usize,
    },
    /// A value is NaN.
    #[error("value {index} is NaN")]
    NotANumber {
        /// Its index.
        index: usize,
    },
    /// All values are the same, or there are fewer than two.
    #[error("{count} values without any variation have no correlation")]
    Constant {
        /// Their number.
        count: usize,
    },
}
