use burn::tensor::{DType, Device, Tensor};
use faer::{Mat, MatRef};

use crate::parts;
use crate::{MatrixError, host, tensor_from_host};

/// The eigenvalues, ascending, and the eigenvectors, in columns, of a symmetric matrix given row by row,
/// `[size, size]`, in f64 on the host: about `9 size³` flop. The bits do not depend on the number of threads.
///
/// # Errors
///
/// If an entry is not finite, or the decomposition does not converge.
///
/// # Panics
///
/// If there are not `size²` values.
pub fn symmetric_eigen(values: &[f64], size: usize) -> Result<(Vec<f64>, Mat<f64>), MatrixError> {
    if values.iter().any(|v| !v.is_finite()) {
        return Err(MatrixError::NonFinite { size });
    }
    // A symmetric matrix reads the same by rows and by columns.
    let matrix = MatRef::from_column_major_slice(values, size, size);
    parts::eigen(matrix).ok_or(MatrixError::NotConverged { size })
}

/// The eigenpairs of a symmetric positive semi-definite matrix, largest first, in f64 on the host.
pub struct EigenDecomposition {
    /// `d` eigenvalues, never negative: those that rounding put below zero are zero.
    pub values: Vec<f64>,
    /// `[d, d]` row by row, with the eigenvectors in its columns.
    pub vectors: Vec<f64>,
}

impl EigenDecomposition {
    /// Decomposes `[d, d]`.
    ///
    /// The matrix is scaled by its largest entry, so that nothing overflows inside.
    ///
    /// # Errors
    ///
    /// If an entry is not finite, the decomposition does not converge, or the device fails.
    pub fn of(matrix: Tensor<2>) -> Result<Self, MatrixError> {
        let [size, _] = matrix.dims();
        let mut matrix = host(matrix)?;
        let largest = matrix.iter().fold(0.0, |m: f64, v| if v.abs() > m || v.is_nan() { v.abs() } else { m });
        if !largest.is_finite() {
            return Err(MatrixError::NonFinite { size });
        }
        let scale = if largest > 0.0 { largest } else { 1.0 };
        matrix.iter_mut().for_each(|v| *v /= scale);
        let (ascending, basis) = symmetric_eigen(&matrix, size)?;
        let values: Vec<f64> = (0..size).rev().map(|k| (ascending[k] * scale).max(0.0)).collect();
        let vectors: Vec<f64> = (0..size * size).map(|i| basis[(i / size, size - 1 - i % size)]).collect();
        // max() hides a NaN, the eigenvectors do not.
        if vectors.iter().chain(&values).all(|v| v.is_finite()) {
            Ok(Self { values, vectors })
        } else {
            Err(MatrixError::NotConverged { size })
        }
    }

    /// The eigenvectors in the columns of `[d, d]`, on a device.
    pub fn basis(self, device: &Device, dtype: DType) -> Tensor<2> {
        let d = self.values.len();
        tensor_from_host(self.vectors, [d, d], device, dtype)
    }
}
