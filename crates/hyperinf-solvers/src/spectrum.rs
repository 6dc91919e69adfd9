use burn::tensor::Tensor;
use hyperinf_curvature::Curvature;
use hyperinf_linalg::{ReadError, host, norms, tensor_from_host};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Power steps at most.
const STEPS: usize = 60;
/// A power iteration approaches from below; this covers the rest.
const MARGIN: f64 = 1.05;

/// The largest eigenvalue of `H` by power iteration, from below: at most `steps` steps, fewer once it gains less than
/// 1e-3.
///
/// Deterministic: the starting row comes from a fixed seed. `like`, any `[_, _]`, gives the device and the type.
///
/// # Errors
///
/// If the device fails.
pub fn largest_eigenvalue(h: &Curvature, like: &Tensor<2>, steps: usize) -> Result<f64, ReadError> {
    let d = h.parameters();
    let mut rng = StdRng::seed_from_u64(0);
    let start = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut row = tensor_from_host(start, [1, d], &like.device(), like.dtype());
    let mut norm = norms(row.clone())?[0];
    let mut estimate: f64 = 0.0;
    for _ in 0..steps {
        if !norm.is_finite() || norm == 0.0 {
            return Ok(norm);
        }
        row = h.apply(row.div_scalar(norm));
        norm = norms(row.clone())?[0];
        let before = std::mem::replace(&mut estimate, norm);
        if estimate <= before * (1.0 + 1e-3) {
            break;
        }
    }
    Ok(estimate)
}

/// A probable upper bound on `μ_max(H)`: a power estimate with a margin, cut to [`certain_bound`] where `H` has a
/// matrix.
///
/// `like` is any tensor, `[_, _]`: it gives the device and the type in which the estimate is computed, and none of its
/// numbers matter. Take the right-hand sides, whose type the solver works in.
///
/// It is too low if the largest eigenvalue exceeds by more than the margin a spectrum so flat that the power iteration
/// stops gaining before it finds it.
///
/// ```
/// use burn::tensor::Tensor;
/// use hyperinf_curvature::{Curvature, Diagonal};
/// use hyperinf_solvers::spectral_bound;
///
/// # fn main() -> Result<(), hyperinf_linalg::ReadError> {
/// # let (_, device) = hyperinf_tests::devices().remove(0);
/// let h = Curvature::from(Diagonal { values: Tensor::from_data([1.0, 3.0], &device) });
/// let v = Tensor::<2>::from_data([[0.0, 1.0]], &device);
/// let bound = spectral_bound(&h, &v)?;
/// assert!((3.0..3.3).contains(&bound));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// If the device fails.
pub fn spectral_bound(h: &Curvature, like: &Tensor<2>) -> Result<f64, ReadError> {
    let bound = largest_eigenvalue(h, like, STEPS)? * MARGIN;
    h.matrix().map_or(Ok(bound), |matrix| Ok(bound.min(certain_bound(matrix)?)))
}

/// A certain bound on the largest eigenvalue of a symmetric matrix: the smaller of its largest absolute row sum and its
/// Frobenius norm.
///
/// # Errors
///
/// If the device fails.
pub fn certain_bound(matrix: &Tensor<2>) -> Result<f64, ReadError> {
    let row_sum = host(matrix.clone().abs().sum_dim(1))?.into_iter().fold(0.0, f64::max);
    let frobenius = norms(matrix.clone())?.iter().map(|norm| norm * norm).sum::<f64>().sqrt();
    Ok(row_sum.min(frobenius))
}
