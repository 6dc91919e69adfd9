use hyperinf_linalg::StatisticsError;

/// Why a figure does not exist for some data.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The two inputs differ in length.
    #[error("{left} values against {right}: both must have one per sample")]
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
    /// One of the two classes has no sample.
    #[error("{positives} of {total} samples are marked: the figure needs some that are and some that are not")]
    OneClass {
        /// Marked samples.
        positives: usize,
        /// All samples.
        total: usize,
    },
    /// All values are the same, or there are fewer than two.
    #[error("{count} values without any variation have no correlation")]
    Constant {
        /// Their number.
        count: usize,
    },
    /// There is too little of something.
    #[error("{found} {what}, where at least {needed} are needed")]
    TooFew {
        /// What there is too little of.
        what: &'static str,
        /// Their number.
        found: usize,
        /// The least number.
        needed: usize,
    },
    /// There is too much of something.
    #[error("{found} {what}, where at most {most} are allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// Their number.
        found: usize,
        /// The largest number.
        most: usize,
    },
    /// A share is outside (0, 1].
    #[error("a share must be above 0 and at most 1, not {value}")]
    Share {
        /// The value given.
        value: f64,
    },
}

impl From<StatisticsError> for EvalError {
    fn from(error: StatisticsError) -> Self {
        match error {
            StatisticsError::Length { left, right } => Self::Length { left, right },
            StatisticsError::NotANumber { index } => Self::NotANumber { index },
            StatisticsError::Constant { count } => Self::Constant { count },
        }
    }
}

pub(crate) fn check(left: &[f64], right: usize) -> Result<(), EvalError> {
    if left.len() != right {
        return Err(EvalError::Length { left: left.len(), right });
    }
    left.iter().position(|v| v.is_nan()).map_or(Ok(()), |index| Err(EvalError::NotANumber { index }))
}
