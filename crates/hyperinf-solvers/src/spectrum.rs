use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, CurvatureError, host, scalars, tensor_from_host};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Starting rows of the power iteration: a single one can miss the top eigenvector.
const ROWS: usize = 4;
/// Power steps at most.
const STEPS: usize = 60;
/// A power iteration approaches from below; this covers what it has not reached.
const MARGIN: f64 = 1.05;

/// The largest eigenvalue of `H` by power iteration, from below, to about 1e-3.
///
/// Deterministic: the starting rows come from a fixed seed.
///
/// # Errors
///
/// If the device fails.
pub fn largest_eigenvalue(h: &Curvature, like: &Tensor<2>) -> Result<f64, CurvatureError> {
    let d = h.parameters();
    let mut rng = StdRng::seed_from_u64(0);
    let start = (0..ROWS * d).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut rows = tensor_from_host(start, [ROWS, d], &like.device(), like.dtype());
    let mut estimate: f64 = 0.0;
    for _ in 0..STEPS {
        let norms = scalars(rows.clone(), rows.clone())?;
        let scale = norms.iter().map(|s| if *s > 0.0 { 1.0 / s.sqrt() } else { 0.0 }).collect();
        rows = rows * tensor_from_host(scale, [ROWS, 1], &like.device(), like.dtype());
        rows = h.apply(rows);
        let next = scalars(rows.clone(), rows.clone())?.into_iter().fold(0.0, f64::max).sqrt();
        if !next.is_finite() || next <= estimate * (1.0 + 1e-3) {
            return Ok(next.max(estimate));
        }
        estimate = next;
    }
    Ok(estimate)
}

/// A bound `u ≥ μ_max(H)`: the smallest of a power estimate with a margin and, where `H` has a matrix, its largest
/// absolute row sum and its Frobenius norm.
///
/// # Errors
///
/// If the device fails.
pub fn spectral_bound(h: &Curvature, like: &Tensor<2>) -> Result<f64, CurvatureError> {
    let mut bound = largest_eigenvalue(h, like)? * MARGIN;
    if let Some(matrix) = h.matrix() {
        let row_sum = host(matrix.clone().abs().sum_dim(1))?.into_iter().fold(0.0, f64::max);
        let frobenius = scalars(matrix.clone(), matrix.clone())?.iter().sum::<f64>().sqrt();
        bound = bound.min(row_sum).min(frobenius);
    }
    Ok(bound)
}
