use faer::linalg::solvers::{Llt, Solve};
use faer::{Mat, MatMut, MatRef, Side};

use crate::SolveError;

/// The largest matrix that is factorised, in bytes; some four of its size exist at once.
const LIMIT: u64 = 16 << 30;

/// Fails if a matrix `[size, size]` in f64 would be too large to factorise: asked before it is formed.
pub(crate) fn check_size(solver: &'static str, size: usize) -> Result<(), SolveError> {
    let bytes = (size as u64).saturating_mul(size as u64).saturating_mul(8);
    if bytes <= LIMIT {
        return Ok(());
    }
    let gib = |b: u64| b as f64 / f64::from(1 << 30);
    Err(SolveError::TooLarge { solver, size, gib: gib(bytes), limit_gib: gib(LIMIT) })
}

/// A symmetric positive definite matrix on the host, factorised in f64.
pub(crate) struct Factor {
    matrix: Mat<f64>,
    cholesky: Llt<f64>,
}

impl Factor {
    /// Factorises `A + shift·I` for `A` given row by row, `[size, size]`.
    pub(crate) fn new(solver: &'static str, values: Vec<f64>, size: usize, shift: f64) -> Result<Self, SolveError> {
        if values.iter().any(|v| !v.is_finite()) {
            return Err(SolveError::NonFinite { solver, what: "the curvature" });
        }
        // A symmetric matrix reads the same by rows and by columns.
        let mut matrix = MatRef::from_column_major_slice(&values, size, size).to_owned();
        for i in 0..size {
            matrix[(i, i)] += shift;
        }
        let cholesky = Llt::new(matrix.as_ref(), Side::Lower).map_err(|_| SolveError::NotPositiveDefinite {
            solver,
            size,
            lambda: shift,
        })?;
        Ok(Self { matrix, cholesky })
    }

    fn size(&self) -> usize {
        self.matrix.nrows()
    }

    /// Solves `x A = b` for each row of `b`, `[q, size]`, in place.
    pub(crate) fn solve(&self, rows: &mut [f64]) {
        let (size, q) = (self.size(), rows.len() / self.size().max(1));
        self.cholesky.solve_in_place(MatMut::from_column_major_slice_mut(rows, size, q));
    }

    /// `x A − b` for rows `x` and `b`, `[q, size]`.
    pub(crate) fn residual(&self, x: &[f64], b: &[f64]) -> Vec<f64> {
        let (size, q) = (self.size(), x.len() / self.size().max(1));
        let mut out = b.to_vec();
        let product = &self.matrix * MatRef::from_column_major_slice(x, size, q);
        for (j, column) in out.chunks_mut(size).enumerate() {
            for (i, value) in column.iter_mut().enumerate() {
                *value = product[(i, j)] - *value;
            }
        }
        out
    }
}
