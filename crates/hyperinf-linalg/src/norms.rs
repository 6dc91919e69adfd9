//! One number per row.

use burn::tensor::{Int, Tensor, TensorData};

use crate::{ReadError, host, host_each};

/// Squared norms below this are computed again: ten million squares too small for f32 sum to 1e-6 of it.
const SMALL: f64 = 1e-25;

/// Row sums of the entry-wise product of two `[n, D]` tensors, `⟨left_i, right_i⟩`, `[n]`.
///
/// Sums are taken in the tensors' type.
///
/// # Errors
///
/// If the device fails.
pub fn scalars(left: Tensor<2>, right: Tensor<2>) -> Result<Vec<f64>, ReadError> {
    let [n, d] = left.dims();
    host(left.reshape([n, 1, d]).matmul(right.reshape([n, d, 1])))
}

/// `||row||²` of each row of `[n, D]`, `[1, n]`, on the device and in the rows' type.
pub fn squares(rows: Tensor<2>) -> Tensor<2> {
    let [n, d] = rows.dims();
    rows.clone().reshape([n, 1, d]).matmul(rows.reshape([n, d, 1])).reshape([1, n])
}

/// `||row||²` of each row of `[n, D]`; exactly 0 for a row of zeros only.
///
/// Squares are summed in the rows' type. A row whose sum is below 1e-25 or overflows is scaled by its largest entry and
/// summed again, so that no square leaves the range of the type: the result is infinite only if it exceeds f64, or the
/// row is not finite.
///
/// # Errors
///
/// If the device fails.
pub fn squared_norms(rows: Tensor<2>) -> Result<Vec<f64>, ReadError> {
    let found = scalars(rows.clone(), rows.clone())?;
    within_range(rows, found)
}

/// [`squared_norms`] of several matrices of one device, which is waited for once.
///
/// # Errors
///
/// If the device fails.
pub fn squared_norms_each(matrices: &[Tensor<2>]) -> Result<Vec<Vec<f64>>, ReadError> {
    let sums: Vec<Tensor<2>> = matrices.iter().map(|rows| squares(rows.clone())).collect();
    let found = host_each(&sums)?;
    matrices.iter().zip(found).map(|(rows, found)| within_range(rows.clone(), found)).collect()
}

/// Whether a sum of squares has left the range of its type, or may have: [`squared_norms`] takes it again.
pub fn leaves_range(square: f64) -> bool {
    square < SMALL || square == f64::INFINITY
}

/// Sums of squares, taken again where they have left the range.
fn within_range(rows: Tensor<2>, mut found: Vec<f64>) -> Result<Vec<f64>, ReadError> {
    let ([n, d], device) = (rows.dims(), rows.device());
    let small: Vec<usize> = (0..n).filter(|&i| leaves_range(found[i])).collect();
    if small.is_empty() || d == 0 {
        return Ok(found);
    }
    let indices = TensorData::new(small.iter().map(|&i| i as i64).collect::<Vec<_>>(), [small.len()]);
    let rows = if small.len() == n { rows } else { rows.select(0, Tensor::<1, Int>::from_data(indices, &device)) };
    let largest = rows.clone().abs().max_dim(1);
    let scales = host(largest.clone())?;
    let divisors = largest.clone().mask_fill(largest.equal_elem(0.0), 1.0);
    let scaled = rows / divisors;
    for ((i, square), scale) in small.into_iter().zip(scalars(scaled.clone(), scaled)?).zip(scales) {
        found[i] = match scale {
            0.0 => 0.0,
            scale if scale.is_finite() => (square * scale * scale).max(f64::MIN_POSITIVE),
            // A row that holds infinity stays infinite, and NaN stays NaN.
            scale => scale,
        };
    }
    Ok(found)
}

/// `||row||` of each row of `[q, D]`, scaled by its largest entry, so that no square leaves the range of the type.
///
/// # Errors
///
/// If the device fails.
pub fn norms(rows: Tensor<2>) -> Result<Vec<f64>, ReadError> {
    if rows.dims().contains(&0) {
        return Ok(vec![0.0; rows.dims()[0]]);
    }
    let largest = rows.clone().abs().max_dim(1);
    let scaled = rows / largest.clone().mask_fill(largest.clone().equal_elem(0.0), 1.0);
    let squares = scalars(scaled.clone(), scaled)?;
    Ok(squares.iter().zip(host(largest)?).map(|(square, largest)| square.sqrt() * largest).collect())
}

/// `||r|| / ||v||` of each pair of rows, `[q, D]` each; `||r||` where `v = 0`.
///
/// # Errors
///
/// If the device fails.
pub fn ratios(r: Tensor<2>, v: Tensor<2>) -> Result<Vec<f64>, ReadError> {
    let (norms, wholes) = (self::norms(r)?, self::norms(v)?);
    Ok(norms.iter().zip(wholes).map(|(r, v)| r / if v > 0.0 { v } else { 1.0 }).collect())
}

/// The largest value and at least 0; NaN if there is one, which `f64::max` would hide.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |worst, &value| if value > worst || value.is_nan() { value } else { worst })
}
