use hyperinf_linalg::{Cholesky, TooLarge};

use crate::SolveError;

/// The largest matrix that is factorised, in bytes; some four of its size exist at once.
const LIMIT: u64 = 16 << 30;

/// Fails if a matrix `[size, size]` in f64 would be too large to factorise: asked before it is formed.
pub(crate) fn check_size(solver: &'static str, size: usize) -> Result<(), SolveError> {
    hyperinf_linalg::check_size([size, size], 8, LIMIT)
        .map_err(|TooLarge { gib, limit_gib, .. }| SolveError::TooLarge { solver, size, gib, limit_gib })
}

/// [`Cholesky::new`], with the solver's name in errors.
pub(crate) fn factorise(
    solver: &'static str,
    values: Vec<f64>,
    size: usize,
    shift: f64,
) -> Result<Cholesky, SolveError> {
    Cholesky::new(values, size, shift).map_err(SolveError::matrix(solver, "the curvature"))
}
