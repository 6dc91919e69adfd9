use hyperinf_curvature::{Curvature, Eigenpairs, Structure};
use hyperinf_linalg::{RandomRows, epsilon, host, tensor_from_host};

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
/// its residual is against `H` itself, and called poor above 0.1. `prepare` costs `rank` products with
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

    fn widens_samples(&self) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        let approximation = nystrom_eigen(h, self.rank, self.seed)?;
        Ok(Box::new(LowRank::new("nystrom", h, approximation, lambda, 0)?))
    }
}

/// The randomized Nyström approximation of a positive semi-definite curvature (Frangella, Tropp and Udell 2023,
/// algorithm 2.1), in f64 where the device has it.
///
/// [`RandomRows::nystrom`] with `rank` rows. Its first shift is the rounding of `||ΩH||_F`. The approximation is never
/// above `H`; it is `H` if `rank` is at least that of `H`.
///
/// # Errors
///
/// If the rank is 0, `H` holds NaN, or `H` has a negative eigenvalue that its own rounding does not explain.
pub fn nystrom_eigen(h: &Curvature, rank: usize, seed: u64) -> Result<Eigenpairs, SolveError> {
    const SOLVER: &str = "nystrom";
    if rank == 0 {
        return Err(SolveError::Parameter { solver: SOLVER, parameter: "rank", expected: "at least 1", value: 0.0 });
    }
    let rounding = epsilon(h.like().dtype());
    let h = h.precise();
    let (like, d) = (h.like(), h.parameters());
    let (device, dtype) = (like.device(), like.dtype());
    let rank = rank.min(d);
    let rows = RandomRows::draw([rank, d], seed);
    let product = host(h.apply(rows.tensor(&device, dtype)))?;
    let shifts = [epsilon(dtype), LARGEST_SHIFT * rounding];
    let pairs = rows.nystrom(&product, rank, shifts);
    let pairs = pairs.map_err(SolveError::matrix(SOLVER, "a product with the curvature"))?;
    Ok(Eigenpairs {
        vectors: tensor_from_host(pairs.vectors, [rank, d], &device, dtype),
        values: tensor_from_host(pairs.values, [1, rank], &device, dtype).squeeze_dim(0),
    })
}
