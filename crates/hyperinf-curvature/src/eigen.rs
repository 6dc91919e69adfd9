use burn::tensor::{DType, Device, Tensor};
use faer::{MatRef, Side};

use crate::CurvatureError;
use crate::precision::{host, tensor_from_host};

/// The eigenpairs of a symmetric positive semi-definite matrix, largest first, in f64 on the host.
pub(crate) struct Eigenpairs {
    /// Never negative: what rounding put below zero is zero.
    pub(crate) values: Vec<f64>,
    /// Row by row, `[d, d]`, with the eigenvectors in its columns.
    pub(crate) vectors: Vec<f64>,
}

impl Eigenpairs {
    /// Decomposes `[d, d]`; `block` and `what` name the matrix in errors.
    ///
    /// # Errors
    ///
    /// If a value is not finite, or the decomposition fails.
    pub(crate) fn of(matrix: Tensor<2>, block: &str, what: &'static str) -> Result<Self, CurvatureError> {
        let [d, _] = matrix.dims();
        Self::of_host(host(matrix)?, d).ok_or_else(|| CurvatureError::Eigen { block: block.into(), what, side: d })
    }

    /// Decomposes `d · d` values; `None` if one is not finite, or the decomposition fails.
    pub(crate) fn of_host(mut matrix: Vec<f64>, d: usize) -> Option<Self> {
        let largest = matrix.iter().fold(0.0, |m: f64, v| if v.abs() > m || v.is_nan() { v.abs() } else { m });
        if !largest.is_finite() {
            return None;
        }
        // Between −1 and 1 nothing overflows inside.
        let scale = if largest > 0.0 { largest } else { 1.0 };
        matrix.iter_mut().for_each(|v| *v /= scale);
        // A symmetric matrix reads the same by rows and by columns.
        let found = MatRef::from_column_major_slice(&matrix, d, d).self_adjoint_eigen(Side::Lower).ok()?;
        let (ascending, basis) = (found.S().column_vector(), found.U());
        let values: Vec<f64> = (0..d).rev().map(|k| (ascending[k] * scale).max(0.0)).collect();
        let vectors: Vec<f64> = (0..d * d).map(|i| basis[(i / d, d - 1 - i % d)]).collect();
        // max() hides a NaN, the eigenvectors do not.
        vectors.iter().chain(&values).all(|v| v.is_finite()).then_some(Self { values, vectors })
    }

    /// The eigenvectors in the columns of `[d, d]`.
    pub(crate) fn vectors(self, device: &Device, dtype: DType) -> Tensor<2> {
        let d = self.values.len();
        tensor_from_host(self.vectors, [d, d], device, dtype)
    }
}
