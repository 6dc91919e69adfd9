use burn::tensor::{DType, Tensor};
use faer::{Mat, MatRef, Side};
use hyperinf_curvature::{dots, host, tensor_from_host};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::SolveError;

/// Rounding units in an eigenvalue of a Gram matrix below which a direction cannot be told from rounding.
const ROUNDING: f64 = 100.0;

/// The eigenvalues, ascending, and the eigenvectors, in columns, of a symmetric matrix on the host, `[size, size]`.
pub(crate) fn symmetric_eigen(
    solver: &'static str,
    values: &[f64],
    size: usize,
) -> Result<(Vec<f64>, Mat<f64>), SolveError> {
    let what = "a product with the curvature";
    if values.iter().any(|v| !v.is_finite()) {
        return Err(SolveError::NonFinite { solver, what });
    }
    let matrix = MatRef::from_column_major_slice(values, size, size);
    let eigen = matrix.self_adjoint_eigen(Side::Lower).map_err(|_| SolveError::NonFinite { solver, what })?;
    Ok((eigen.S().column_vector().iter().copied().collect(), eigen.U().to_owned()))
}

/// The spacing of numbers at 1 in a tensor's type.
pub(crate) fn epsilon(dtype: DType) -> f64 {
    dtype.finfo().map_or(f64::EPSILON, |info| info.epsilon)
}

/// An orthonormal basis of what the rows span, `[k, D]` for `[q, D]`; nothing if all rows are zero.
///
/// Rank-revealing: the rows are scaled to length 1, and directions of their Gram matrix that cannot be told from
/// rounding, those of duplicates and zeros, are left out. A second round removes the rounding of the first. (The
/// singular-value QR of Stathopoulos and Wu 2002, section 3.)
pub(crate) fn orthonormal(solver: &'static str, mut rows: Tensor<2>) -> Result<Option<Tensor<2>>, SolveError> {
    for _ in 0..2 {
        let q = rows.dims()[0];
        let (device, dtype) = (rows.device(), rows.dtype());
        let mut gram = host(dots(rows.clone(), rows.clone()))?;
        let scales: Vec<f64> = (0..q).map(|i| gram[i * q + i].sqrt().recip()).collect();
        let scales: Vec<f64> = scales.into_iter().map(|s| if s.is_infinite() { 0.0 } else { s }).collect();
        for (k, value) in gram.iter_mut().enumerate() {
            *value *= scales[k / q] * scales[k % q];
        }
        let (values, vectors) = symmetric_eigen(solver, &gram, q)?;
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

/// Normally distributed values by Box and Muller's transform.
pub(crate) fn normals(count: usize, seed: u64) -> Vec<f64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let pairs = std::iter::repeat_with(|| {
        let (radius, angle): (f64, f64) = (rng.random_range(0.0..1.0), rng.random_range(0.0..std::f64::consts::TAU));
        // 1 − radius is in (0, 1], so the logarithm is finite.
        let length = (-2.0 * (1.0 - radius).ln()).sqrt();
        [length * angle.cos(), length * angle.sin()]
    });
    pairs.flatten().take(count).collect()
}
