use burn::tensor::{Tensor, s};
use hyperinf_curvature::{Curvature, Eigenpairs, Structure};
use hyperinf_linalg::{combine, dots, epsilon, scalars, seeded_normals, tensor_from_host};

use crate::krylov::symmetric_eigen;
use crate::low_rank::LowRank;
use crate::solver::check;
use crate::{Inverse, SolveError, Solver};

/// Rounding units, times `√D`, below which a row is mere rounding.
const ROUNDING: f64 = 10.0;

/// The curvature's largest eigenpairs by Lanczos's method, inverted with the complement at `λ`.
///
/// ```text
/// X = V U (Θ + λI)⁻¹ Uᵀ + (V − V U Uᵀ) / λ
/// ```
///
/// for the eigenpairs of [`lanczos_eigen`], as Schioppa et al. 2022 (section 3, "Arnoldi") do for symmetric
/// curvature. Exact at full rank, good where the eigenvalues beyond `rank` are below `λ`; its residual is against `H`
/// itself, and called poor above 0.1. `prepare` costs `rank + extra` products of one row with `H` and
/// `4 D (rank + extra)²` flop, `apply` two products with `U`.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `rank` | 64 | eigenpairs at most; `D` if that is less | ≥ 1 |
/// | `extra` | 64 | steps beyond the rank, for the accuracy of the last pairs | ≥ 0 |
/// | `seed` | 0 | seed of the starting row | |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanczos {
    /// Eigenpairs at most.
    pub rank: usize,
    /// Steps beyond the rank.
    pub extra: usize,
    /// Seed of the starting row.
    pub seed: u64,
}

impl Default for Lanczos {
    fn default() -> Self {
        Self { rank: 64, extra: 64, seed: 0 }
    }
}

impl Solver for Lanczos {
    fn name(&self) -> &'static str {
        "lanczos"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn widens_samples(&self) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        let (approximation, steps) = lanczos_eigen(h, self.rank, self.extra, self.seed)?;
        Ok(Box::new(LowRank::new("lanczos", h, approximation, lambda, steps)?))
    }
}

/// The largest eigenpairs of a curvature by Lanczos's method with full reorthogonalisation, in
/// f64 where the device has it, and the steps taken.
///
/// For orthonormal rows `B` that span the Krylov space of a random row, `B H Bᵀ = T` is tridiagonal; with `T = S Θ Sᵀ`
/// the pairs are the largest `θ` with the rows `sᵀB`. When `H` maps the space into itself (a breakdown), the method
/// continues with a random row outside of it; otherwise it would find no eigenvalue twice. It stops where `H` maps such
/// a row to zero: the rest is the null space.
///
/// # Errors
///
/// If the rank is 0 or `H` holds NaN.
pub fn lanczos_eigen(h: &Curvature, rank: usize, extra: usize, seed: u64) -> Result<(Eigenpairs, usize), SolveError> {
    const SOLVER: &str = "lanczos";
    if rank == 0 {
        return Err(SolveError::Parameter { solver: SOLVER, parameter: "rank", expected: "at least 1", value: 0.0 });
    }
    let h = h.precise();
    let (like, d) = (h.like(), h.parameters());
    let (device, dtype) = (like.device(), like.dtype());
    let steps = rank.saturating_add(extra).min(d);
    let rounding = ROUNDING * epsilon(dtype) * (d as f64).sqrt();
    let random = |seed: u64| -> Tensor<2> { tensor_from_host(seeded_normals(d, seed), [1, d], &device, dtype) };

    let mut basis = Tensor::<2>::zeros([steps, d], (&device, dtype));
    let (mut diagonal, mut off_diagonal) = (Vec::new(), Vec::new());
    let mut size: f64 = 0.0;
    // A new row must leave the space so far by more than rounding.
    let mut next = unit(random(seed), None)?.map(|(row, _)| row);
    let mut fresh = true;
    while let Some(row) = next {
        let step = diagonal.len();
        let product = h.apply(row.clone());
        let length = norm(&product)?;
        if !length.is_finite() {
            return Err(SolveError::NonFinite { solver: SOLVER, what: "a product with the curvature" });
        }
        if fresh && step > 0 && length <= rounding * size {
            off_diagonal.pop();
            break;
        }
        size = size.max(length);
        diagonal.push(scalars(row.clone(), product.clone())?[0]);
        basis = basis.slice_assign(s![step..step + 1, ..], row);
        if step + 1 == steps {
            break;
        }
        let known = basis.clone().slice([0..step + 1]);
        let continued = unit(product, Some(&known))?.filter(|(_, length)| *length > rounding * size);
        fresh = continued.is_none();
        next = match continued {
            Some((row, length)) => {
                off_diagonal.push(length);
                Some(row)
            }
            None => {
                off_diagonal.push(0.0);
                unit(random(seed.wrapping_add(step as u64 + 1)), Some(&known))?.map(|(row, _)| row)
            }
        };
    }
    let steps = diagonal.len();
    let mut projected = vec![0.0; steps * steps];
    for i in 0..steps {
        projected[i * steps + i] = diagonal[i];
        if i + 1 < steps {
            projected[i * steps + i + 1] = off_diagonal[i];
            projected[(i + 1) * steps + i] = off_diagonal[i];
        }
    }
    let (values, vectors) = symmetric_eigen(SOLVER, &projected, steps)?;
    let kept = (0..steps).rev().take(rank);
    let rows = kept.clone().flat_map(|k| (0..steps).map(move |i| (i, k))).map(|at| vectors[at]).collect();
    let values: Vec<f64> = kept.map(|k| values[k]).collect();
    let count = values.len();
    let rows = tensor_from_host(rows, [count, steps], &device, dtype);
    let vectors = combine(rows, basis.slice([0..steps]));
    let values = tensor_from_host(values, [1, count], &device, dtype).squeeze_dim(0);
    Ok((Eigenpairs { vectors, values }, steps))
}

/// The row without its part in the span of the orthonormal rows of `known`, scaled to length 1, and its length before;
/// `None` if that is zero.
fn unit(mut row: Tensor<2>, known: Option<&Tensor<2>>) -> Result<Option<(Tensor<2>, f64)>, SolveError> {
    if let Some(known) = known {
        // Twice is enough (Parlett 1980, section 6.9).
        for _ in 0..2 {
            row = row.clone() - combine(dots(row, known.clone()), known.clone());
        }
    }
    let length = norm(&row)?;
    if length == 0.0 {
        return Ok(None);
    }
    Ok(Some((row.div_scalar(length), length)))
}

fn norm(row: &Tensor<2>) -> Result<f64, SolveError> {
    Ok(scalars(row.clone(), row.clone())?[0].sqrt())
}
