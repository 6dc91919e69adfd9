use faer::linalg::solvers::Llt;
use faer::{Mat, MatMut, MatRef, Side};

use crate::MatrixError;
use crate::parts::{solve_cholesky, times};

/// A symmetric positive definite matrix on the host, factorised once in f64: `A = L Lᵀ`, `size³/3` flop.
pub struct Cholesky {
    matrix: Mat<f64>,
    factor: Llt<f64>,
}

impl Cholesky {
    /// Factorises `A + shift·I` for `A` given row by row, `[size, size]`; its lower triangle is used.
    ///
    /// # Errors
    ///
    /// If an entry is not finite, or the matrix is not positive definite.
    ///
    /// # Panics
    ///
    /// If there are not `size²` values.
    pub fn new(values: Vec<f64>, size: usize, shift: f64) -> Result<Self, MatrixError> {
        if values.iter().any(|v| !v.is_finite()) {
            return Err(MatrixError::NonFinite { size });
        }
        // A symmetric matrix reads the same by rows and by columns.
        let mut matrix = MatRef::from_column_major_slice(&values, size, size).to_owned();
        for i in 0..size {
            matrix[(i, i)] += shift;
        }
        let factor =
            Llt::new(matrix.as_ref(), Side::Lower).map_err(|_| MatrixError::NotPositiveDefinite { size, shift })?;
        Ok(Self { matrix, factor })
    }

    /// The matrix's side.
    pub fn size(&self) -> usize {
        self.matrix.nrows()
    }

    /// Solves `x A = b` for each row of `b`, `[q, size]`, in place. The bits do not depend on the number of threads.
    pub fn solve(&self, rows: &mut [f64]) {
        let (size, q) = (self.size(), rows.len() / self.size().max(1));
        solve_cholesky(self.factor.L(), MatMut::from_column_major_slice_mut(rows, size, q));
    }

    /// `x A − b` for rows `x` and `b`, `[q, size]`.
    pub fn residual(&self, x: &[f64], b: &[f64]) -> Vec<f64> {
        let (size, q) = (self.size(), x.len() / self.size().max(1));
        let product = times(self.matrix.as_ref(), MatRef::from_column_major_slice(x, size, q));
        let mut out = b.to_vec();
        for (j, column) in out.chunks_mut(size).enumerate() {
            for (i, value) in column.iter_mut().enumerate() {
                *value = product[(i, j)] - *value;
            }
        }
        out
    }
}
