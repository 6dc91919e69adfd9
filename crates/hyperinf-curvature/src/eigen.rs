use burn::tensor::{DType, Device, Tensor};
use faer::{MatRef, Side};

use crate::CurvatureError;
use crate::precision::{host, tensor_from_host};

/// The eigenpairs of a symmetric positive semi-definite matrix, largest first, in f64 on the host.
pub(crate) struct Eigenpairs {
    /// Never negative: what rounding put below zero is zero.
    pub(crate) values: Vec<f64>,
    /// Row by row, `[d, d]`, with the eigenvectors in its columns.
    vectors: Vec<f64>,
}

impl Eigenpairs {
    /// Decomposes `[d, d]`; `block` and `what` name the matrix in errors.
    ///
    /// # Errors
    ///
    /// If a value is not finite, or the decomposition fails.
    pub(crate) fn of(matrix: Tensor<2>, block: &str, what: &'static str) -> Result<Self, CurvatureError> {
        let [d, _] = matrix.dims();
        let mut values = host(matrix)?;
        let failed = || CurvatureError::Eigen { block: block.into(), what, side: d };
        let largest = values.iter().fold(0.0, |m: f64, v| if v.abs() > m || v.is_nan() { v.abs() } else { m });
        if !largest.is_finite() {
            return Err(failed());
        }
        // Between −1 and 1 nothing overflows inside.
        let scale = if largest > 0.0 { largest } else { 1.0 };
        values.iter_mut().for_each(|v| *v /= scale);
        // A symmetric matrix reads the same by rows and by columns.
        let found = MatRef::from_column_major_slice(&values, d, d).self_adjoint_eigen(Side::Lower);
        let found = found.map_err(|_| failed())?;
        let (order, basis) = (found.S().column_vector(), found.U());
        let values: Vec<f64> = (0..d).rev().map(|k| (order[k] * scale).max(0.0)).collect();
        let vectors: Vec<f64> = (0..d * d).map(|i| basis[(i / d, d - 1 - i % d)]).collect();
        // max() hides a NaN, the eigenvectors do not.
        if vectors.iter().chain(&values).any(|v| !v.is_finite()) {
            return Err(failed());
        }
        Ok(Self { values, vectors })
    }

    /// The eigenvectors in the columns of `[d, d]`.
    pub(crate) fn vectors(self, device: &Device, dtype: DType) -> Tensor<2> {
        let d = self.values.len();
        tensor_from_host(self.vectors, [d, d], device, dtype)
    }
}
