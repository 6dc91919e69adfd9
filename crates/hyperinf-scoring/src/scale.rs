//! Powers of two that bring numbers near 1 before a block is inverted, and are taken back from its scores: exact, so that
//! only results that would leave the range of their type change.

use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{host, tensor_from_host};

use crate::ScoreError;

/// Rows whose largest entry is within 2^±RANGE (1e±10) are left as they are, and curvature within 4^±RANGE.
const RANGE: i32 = 33;

/// The rows over powers of two that bring the largest entry of each near 1, with the exponents: all 0 for rows of usual
/// size.
pub(crate) fn near_one(rows: Tensor<2>) -> Result<(Tensor<2>, Vec<i32>), ScoreError> {
    let ([q, d], device) = (rows.dims(), rows.device());
    if q * d == 0 {
        return Ok((rows, vec![0; q]));
    }
    let exponent = |largest: f64| if largest > 0.0 && largest.is_finite() { outside(largest.log2(), RANGE) } else { 0 };
    let exponents: Vec<i32> = host(rows.clone().abs().max_dim(1))?.into_iter().map(exponent).collect();
    if exponents.iter().all(|exponent| *exponent == 0) {
        return Ok((rows, exponents));
    }
    let dtype = rows.dtype();
    let powers = |part: fn(i32) -> i32| {
        let powers = exponents.iter().map(|&exponent| f64::from(-part(exponent)).exp2()).collect();
        tensor_from_host(powers, [q, 1], &device, dtype)
    };
    // In two halves: the whole factor may not fit the type.
    let scaled = rows * powers(|e| e / 2) * powers(|e| e - e / 2);
    Ok((scaled, exponents))
}

/// The `k` for which `4^k · square` is near 1; 0 for a square of usual size.
pub(crate) fn exponent(square: f64) -> i32 {
    if square > 0.0 && square.is_finite() { -outside(0.5 * square.log2(), RANGE) } else { 0 }
}

/// `value · 2^power`, without an overflow or underflow on the way.
pub(crate) fn times(value: f64, power: i32) -> f64 {
    if power == 0 {
        return value;
    }
    let half = power / 2;
    value * f64::from(half).exp2() * f64::from(power - half).exp2()
}

/// The `p` that brings `λ/2^p` down to `2^60` times the trace of the curvature; 0 if `λ` is smaller. Next to a damping
/// that large, the curvature is lost in the rounding of f64, so a larger one changes the inverse by a factor only.
pub(crate) fn shift(lambda: f64, trace: f64) -> i32 {
    let excess = lambda.log2() - trace.log2() - 60.0;
    if excess > 0.0 && excess.is_finite() { excess.ceil() as i32 } else { 0 }
}

/// The smallest damping that a sum in this type resolves next to curvature of the given trace.
pub(crate) fn least_damping(trace: f64, dtype: DType) -> f64 {
    trace * hyperinf_linalg::epsilon(dtype)
}

/// The nearest whole number, or 0 within the range.
fn outside(log: f64, range: i32) -> i32 {
    if log.abs() <= f64::from(range) { 0 } else { log.round() as i32 }
}
