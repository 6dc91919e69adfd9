use burn::tensor::Tensor;
use hyperinf_curvature::Curvature;
use hyperinf_linalg::{ReadError, combine, dots, epsilon, host, norms, scalars, symmetric_eigen, tensor_from_host};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Lanczos steps of an upper bound.
const LANCZOS: usize = 12;
/// Rounding units in a Ritz value.
const ROUNDING: f64 = 16.0;

/// The largest eigenvalue of `H` by power iteration, from below: at most `steps` steps, fewer once it gains less than
/// 1e-3.
///
/// Deterministic: the starting row comes from a fixed seed. `like`, any `[_, _]`, gives the device and the type.
///
/// # Errors
///
/// If the device fails.
pub fn largest_eigenvalue(h: &Curvature, like: &Tensor<2>, steps: usize) -> Result<f64, ReadError> {
    iterate(h, like, steps, |row| Ok(h.apply(row)))
}

/// `V (H/c)^j`, `[q, D]`, for `j = 0, 1, …`: by-products of a power iteration.
#[derive(Clone, Debug)]
pub(crate) struct Powers {
    /// The divisor `c`, a first estimate of the eigenvalue.
    pub(crate) unit: f64,
    /// One per power, from 0.
    pub(crate) rows: Vec<Tensor<2>>,
}

impl Powers {
    /// Of no product.
    pub(crate) fn none(v: &Tensor<2>) -> Self {
        Self { unit: 1.0, rows: vec![v.clone()] }
    }
}

/// [`largest_eigenvalue`], whose passes over `H` also multiply the rows `V`.
pub(crate) fn largest_eigenvalue_along(h: &Curvature, v: &Tensor<2>, steps: usize) -> Result<(f64, Powers), ReadError> {
    let mut powers = Powers::none(v);
    let found = iterate(h, v, steps, |row| {
        let last = powers.rows[powers.rows.len() - 1].clone();
        let q = last.dims()[0];
        let both = h.apply(Tensor::cat(vec![row, last], 0));
        let (row, next) = (both.clone().slice([0..1]), both.slice([1..1 + q]));
        if powers.rows.len() == 1 {
            let unit = norms(row.clone())?[0];
            powers.unit = if unit.is_finite() && unit > 0.0 { unit } else { 1.0 };
        }
        powers.rows.push(next.div_scalar(powers.unit));
        Ok(row)
    })?;
    Ok((found, powers))
}

/// The power iteration with `multiply` for a row times `H`.
fn iterate(
    h: &Curvature,
    like: &Tensor<2>,
    steps: usize,
    mut multiply: impl FnMut(Tensor<2>) -> Result<Tensor<2>, ReadError>,
) -> Result<f64, ReadError> {
    let mut row = start(h, like);
    let mut norm = norms(row.clone())?[0];
    let mut estimate: f64 = 0.0;
    for _ in 0..steps {
        if !norm.is_finite() || norm == 0.0 {
            return Ok(norm);
        }
        row = multiply(row.div_scalar(norm))?;
        norm = norms(row.clone())?[0];
        let before = std::mem::replace(&mut estimate, norm);
        if estimate <= before * (1.0 + 1e-3) {
            break;
        }
    }
    Ok(estimate)
}

/// A probable upper bound on `μ_max(H)` by a few steps of Lanczos's method, cut to [`certain_bound`] where `H` has a
/// matrix.
///
/// `θ + β` for the largest Ritz value `θ` and the norm `β` of the residual of the whole Krylov space (Zhou and Li 2011,
/// equation 2.6): above `μ_max` for nearly every start, and above it by at most half of what the certain bounds cost. A
/// power iteration stops gaining on a flat spectrum long before it is there, which no margin covers.
///
/// `like` is any tensor, `[_, _]`: it gives the device and the type in which the bound is computed, and none of its
/// numbers matter. Take the right-hand sides, whose type the solver works in.
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
    let bound = lanczos_bound(h, like)?;
    h.matrix().map_or(Ok(bound), |matrix| Ok(bound.min(certain_bound(matrix)?)))
}

/// `θ + β` after at most [`LANCZOS`] steps from a fixed start; NaN and infinity are kept.
fn lanczos_bound(h: &Curvature, like: &Tensor<2>) -> Result<f64, ReadError> {
    let (d, start) = (h.parameters(), start(h, like));
    let (mut diagonal, mut off_diagonal): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut rows: Vec<Tensor<2>> = Vec::new();
    let mut row = start.clone().div_scalar(norms(start)?[0]);
    for _ in 0..LANCZOS.min(d) {
        let mut next = h.apply(row.clone());
        diagonal.push(scalars(row.clone(), next.clone())?[0]);
        rows.push(row);
        // Against all rows before, twice: rounding would bring back what has converged.
        for _ in 0..2 {
            let basis = Tensor::cat(rows.clone(), 0);
            next = next.clone() - combine(dots(next, basis.clone()), basis);
        }
        let length = norms(next.clone())?[0];
        off_diagonal.push(length);
        if !length.is_finite() {
            return Ok(length);
        }
        if length <= epsilon(like.dtype()) * diagonal.iter().fold(0.0, |most: f64, mu| most.max(mu.abs())) {
            break;
        }
        row = next.div_scalar(length);
    }
    let steps = diagonal.len();
    let entry = |i: usize, j: usize| match i.abs_diff(j) {
        0 => diagonal[i],
        1 => off_diagonal[i.min(j)],
        _ => 0.0,
    };
    let projected: Vec<f64> = (0..steps * steps).map(|at| entry(at / steps, at % steps)).collect();
    // What is not finite has no decomposition.
    let Ok((values, _)) = symmetric_eigen(&projected, steps) else { return Ok(f64::NAN) };
    let bound = values.last().copied().unwrap_or(0.0).max(0.0) + off_diagonal.last().copied().unwrap_or(0.0);
    // A complete Krylov space gives the eigenvalue itself, rounded.
    Ok(bound * (1.0 + ROUNDING * epsilon(like.dtype())))
}

/// The fixed start of both estimates, `[1, D]`.
fn start(h: &Curvature, like: &Tensor<2>) -> Tensor<2> {
    let d = h.parameters();
    let mut rng = StdRng::seed_from_u64(0);
    let start = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
    tensor_from_host(start, [1, d], &like.device(), like.dtype())
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
