//! Norms of `I − A X`: the distance of `X` from the inverse.

use burn::tensor::Tensor;
use hyperinf_linalg::{scalars, tensor_from_host};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::SolveError;

/// Rows with which the error of the last `X` is estimated.
const PROBES: usize = 8;

/// `||M||_F / √k` of each matrix: the root mean square of the eigenvalues of a symmetric one.
pub(super) fn mean_norms(matrices: &Tensor<3>) -> Result<Vec<f64>, SolveError> {
    let [b, k, _] = matrices.dims();
    let rows = matrices.clone().reshape([b * k, k]);
    let squares = scalars(rows.clone(), rows)?;
    Ok(squares.chunks(k).map(|rows| (rows.iter().sum::<f64>() / k as f64).sqrt()).collect())
}

/// [`mean_norms`] of `I − A X` without the product: the mean over random rows `z` of signs, for which
/// `E ||z (I − A X)||² = ||I − A X||_F²`.
pub(super) fn probed(a: &Tensor<3>, x: &Tensor<3>) -> Result<Vec<f64>, SolveError> {
    let ([b, k, _], device, dtype) = (a.dims(), a.device(), x.dtype());
    let mut rng = StdRng::seed_from_u64(0);
    let signs = (0..PROBES * k).map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
    let z: Tensor<3> = tensor_from_host(signs, [PROBES, k], &device, dtype).unsqueeze_dim::<3>(0).repeat_dim(0, b);
    let rest = z.clone() - z.matmul(a.clone().cast(dtype)).matmul(x.clone());
    let rows = rest.reshape([b * PROBES, k]);
    let squares = scalars(rows.clone(), rows)?;
    Ok(squares.chunks(PROBES).map(|rows| (rows.iter().sum::<f64>() / (PROBES * k) as f64).sqrt()).collect())
}
