use burn::tensor::Tensor;
use faer::Mat;

use crate::SolveError;

/// The name of these methods' matrices in errors.
const WHAT: &str = "a product with the curvature";

/// [`hyperinf_linalg::symmetric_eigen`], with the solver's name in errors.
pub(crate) fn symmetric_eigen(
    solver: &'static str,
    values: &[f64],
    size: usize,
) -> Result<(Vec<f64>, Mat<f64>), SolveError> {
    hyperinf_linalg::symmetric_eigen(values, size).map_err(SolveError::matrix(solver, WHAT))
}

/// [`hyperinf_linalg::orthonormal`], with the solver's name in errors.
pub(crate) fn orthonormal(solver: &'static str, rows: Tensor<2>) -> Result<Option<Tensor<2>>, SolveError> {
    hyperinf_linalg::orthonormal(rows).map_err(SolveError::matrix(solver, WHAT))
}
