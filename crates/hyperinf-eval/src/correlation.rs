use hyperinf_linalg as linalg;
use num_traits::Float;

use crate::EvalError;

/// Pearson's correlation of two series, in [−1, 1].
///
/// # Errors
///
/// If the lengths differ, a value is NaN, or a series has no variation.
pub fn pearson<T: Float + Into<f64>, U: Float + Into<f64>>(x: &[T], y: &[U]) -> Result<f64, EvalError> {
    Ok(linalg::pearson(x, y)?)
}

/// Spearman's rank correlation: Pearson's of the ranks, in [−1, 1].
///
/// # Errors
///
/// If the lengths differ, a value is NaN, or a series has no variation.
pub fn spearman<T: Float + Into<f64>, U: Float + Into<f64>>(x: &[T], y: &[U]) -> Result<f64, EvalError> {
    Ok(linalg::spearman(x, y)?)
}
