use burn::tensor::Tensor;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, MatMut, MatRef, Side};
use hyperinf_curvature::{Curvature, Structure, host, tensor_from_host};

use crate::krylov::{epsilon, normals};
use crate::low_rank::LowRank;
use crate::solver::check;
use crate::{Inverse, SolveError, Solver};

/// Growth of the shift, in units of the rounding of `H`'s own type, at which `H` is called indefinite.
const LARGEST_SHIFT: f64 = 1e3;

/// The randomized Nyström approximation of the curvature, inverted with the complement at `λ`.
///
/// ```text
/// H ≈ U Λ Uᵀ,   X = V U ((Λ + λI)⁻¹ − I/λ) Uᵀ + V/λ
/// ```
///
/// for the eigenpairs of [`nystrom_eigen`]. Exact at full rank, good where the eigenvalues beyond `rank` are below `λ`;
/// its residual, against `H` itself, says how far it is, and it aims for none. `prepare` costs `rank` products with
/// `H` and `8 D rank²` flop on the host, `apply` two products with `U`.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `rank` | 128 | eigenpairs at most; `D` if that is less | ≥ 1 |
/// | `seed` | 0 | seed of the random directions | |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nystrom {
    /// Eigenpairs at most.
    pub rank: usize,
    /// Seed of the random directions.
    pub seed: u64,
}

impl Default for Nystrom {
    fn default() -> Self {
        Self { rank: 128, seed: 0 }
    }
}

impl Solver for Nystrom {
    fn name(&self) -> &'static str {
        "nystrom"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        let approximation = nystrom_eigen(h, self.rank, self.seed)?;
        Ok(Box::new(LowRank::new("nystrom", h, &approximation, lambda, 0)?))
    }
}

/// The randomized Nyström approximation of a positive semi-definite curvature (Frangella, Tropp and Udell 2023,
/// algorithm 2.1), as `Curvature::Eigen` in f64 where the device has it.
///
/// With orthonormal random rows `Ω` `[rank, D]` and `Y = Ω (H + νI)`:
///
/// ```text
/// H + νI ≈ Yᵀ (Y Ωᵀ)⁻¹ Y = Bᵀ B,   B = C⁻ᵀ Y with CᵀC = Y Ωᵀ,   B = W Σ Uᵀ,   Λ = max(0, Σ² − νI)
/// ```
///
/// The shift `ν` is the rounding of `||ΩH||_F`, ten times more each time that the Cholesky factor `C` does not exist.
/// The approximation is never above `H`; it is `H` if `rank` is at least that of `H`.
///
/// # Errors
///
/// If the rank is 0, `H` holds NaN, or `H` has a negative eigenvalue that its own rounding does not explain.
pub fn nystrom_eigen(h: &Curvature, rank: usize, seed: u64) -> Result<Curvature, SolveError> {
    const SOLVER: &str = "nystrom";
    if rank == 0 {
        return Err(SolveError::Parameter { solver: SOLVER, parameter: "rank", expected: "at least 1", value: 0.0 });
    }
    let rounding = epsilon(h.like().dtype());
    let h = h.precise();
    let (like, d) = (h.like(), h.parameters());
    let (device, dtype) = (like.device(), like.dtype());
    let rank = rank.min(d);
    let on_device = |values: Vec<f64>| -> Tensor<2> { tensor_from_host(values, [rank, d], &device, dtype) };

    // Rows of [rank, D] are the columns of faer's [D, rank].
    let test = MatRef::from_column_major_slice(&normals(rank * d, seed), d, rank).qr().compute_thin_Q();
    let product = host(h.apply(on_device(columns(&test))))?;
    let size = product.iter().map(|y| y * y).sum::<f64>().sqrt();
    if !size.is_finite() {
        return Err(SolveError::NonFinite { solver: SOLVER, what: "a product with the curvature" });
    }
    let eigen = |vectors: &Mat<f64>, values: Vec<f64>| Curvature::Eigen {
        vectors: on_device(columns(vectors)),
        values: tensor_from_host(values, [1, rank], &device, dtype).squeeze_dim(0),
    };
    if size == 0.0 {
        return Ok(eigen(&test, vec![0.0; rank]));
    }
    let mut shift = epsilon(dtype) * size;
    let factor = loop {
        let shifted = MatRef::from_column_major_slice(&product, d, rank) + faer::Scale(shift) * &test;
        let core = test.transpose() * &shifted;
        let core = faer::Scale(0.5) * (&core + core.transpose());
        if let Ok(cholesky) = core.llt(Side::Lower) {
            let mut rows = columns(&shifted);
            let side = MatMut::from_row_major_slice_mut(&mut rows, rank, d);
            solve_lower_triangular_in_place(cholesky.L(), side, faer::get_global_parallelism());
            break rows;
        }
        shift *= 10.0;
        if shift > LARGEST_SHIFT * rounding * size {
            return Err(SolveError::NotPositiveDefinite { solver: SOLVER, size: rank, lambda: shift });
        }
    };
    let svd = MatRef::from_column_major_slice(&factor, d, rank).thin_svd();
    let svd = svd.map_err(|_| SolveError::NonFinite { solver: SOLVER, what: "a product with the curvature" })?;
    let values = svd.S().column_vector().iter().map(|sigma| (sigma * sigma - shift).max(0.0)).collect();
    Ok(eigen(&svd.U().to_owned(), values))
}

/// The columns of a matrix, one after the other.
fn columns(matrix: &Mat<f64>) -> Vec<f64> {
    (0..matrix.ncols()).flat_map(|j| matrix.col_as_slice(j).iter().copied()).collect()
}
