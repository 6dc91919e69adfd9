use burn::tensor::Tensor;

use crate::{MatrixError, dots, epsilon, host, symmetric_eigen, tensor_from_host};

/// Rounding units in an eigenvalue of a Gram matrix below which a direction cannot be distinguished from rounding.
const ROUNDING: f64 = 100.0;

/// An orthonormal basis of the span of the rows, `[k, D]` for `[q, D]`, `k ≤ q`; `None` if all rows are zero.
///
/// Rank-revealing: rows are scaled to length 1, and directions of their Gram matrix that are mere rounding,
/// those of duplicates and zeros, are left out. A second round removes the rounding of the first. (The singular-value
/// QR of Stathopoulos and Wu 2002, section 3.)
///
/// # Errors
///
/// If a product of rows is not finite, or the device fails.
pub fn orthonormal(mut rows: Tensor<2>) -> Result<Option<Tensor<2>>, MatrixError> {
    for _ in 0..2 {
        let q = rows.dims()[0];
        let (device, dtype) = (rows.device(), rows.dtype());
        let mut gram = host(dots(rows.clone(), rows.clone()))?;
        let scales: Vec<f64> = (0..q).map(|i| gram[i * q + i].sqrt().recip()).collect();
        let scales: Vec<f64> = scales.into_iter().map(|s| if s.is_infinite() { 0.0 } else { s }).collect();
        for (k, value) in gram.iter_mut().enumerate() {
            *value *= scales[k / q] * scales[k % q];
        }
        let (values, vectors) = symmetric_eigen(&gram, q)?;
        let least = ROUNDING * epsilon(dtype) * values.last().copied().unwrap_or(0.0).max(0.0) * q as f64;
        let kept: Vec<usize> = (0..q).filter(|&k| values[k] > least).collect();
        if kept.is_empty() {
            return Ok(None);
        }
        let entry = |k: usize, i: usize| vectors[(i, k)] * scales[i] / values[k].sqrt();
        let change = kept.iter().flat_map(|&k| (0..q).map(move |i| entry(k, i))).collect();
        rows = tensor_from_host(change, [kept.len(), q], &device, dtype).matmul(rows);
    }
    Ok(Some(rows))
}
