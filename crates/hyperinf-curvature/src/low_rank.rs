use burn::tensor::{DType, Device, Tensor};
use faer::{Mat, MatRef, Side};
use hyperinf_gradients::Block;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::precision::{host, tensor_from_host};
use crate::product::normal_product;
use crate::storage::test_rows;
use crate::{Curvature, CurvatureError};

/// The stability shift in units of the type's precision times `||Y||_F`: above the rounding of the sums in `Y`, below
/// any eigenvalue that they resolve.
const SHIFT: f64 = 4.0;

/// A random sketch of the sum of outer products: `Y = Ω Σ g gᵀ` for fixed orthonormal rows `Ω`, `[l, D]`.
pub(crate) struct Sketch {
    test: Tensor<2>,
    sum: Tensor<2>,
    rank: usize,
}

impl Sketch {
    /// Draws `Ω` for gradients like these.
    pub(crate) fn new(rank: usize, seed: u64, like: &Tensor<2>) -> Self {
        let [_, d] = like.dims();
        let rank = rank.min(d);
        let test = orthonormal_rows(test_rows(rank, d), d, seed, &like.device(), like.dtype());
        Self { sum: test.zeros_like(), test, rank }
    }

    /// Adds the gradients `[n, D]`.
    pub(crate) fn add(&mut self, rows: Tensor<2>) {
        let product = normal_product(self.test.clone(), rows, |products, _| products).0;
        self.sum = self.sum.clone() + product;
    }

    /// The eigenpairs of the Nyström approximation `Yᵀ (Ω Yᵀ)⁻¹ Y` of `H`, `Y = Ω H` (Tropp et al. 2017, algorithm 3).
    ///
    /// `H + νI` is approximated and `ν` taken off its eigenvalues again, so that the Cholesky factor of `Ω Yᵀ` exists.
    /// All of it in f64.
    pub(crate) fn finish(self, block: &Block, samples: usize) -> Result<Curvature, CurvatureError> {
        let ([l, d], device, dtype) = (self.sum.dims(), self.sum.device(), self.sum.dtype());
        let failed = || CurvatureError::Eigen { block: block.name.clone(), what: "the sketch", side: l };
        let test = host(self.test)?;
        let mut sum = host(self.sum.div_scalar(samples as f64))?;
        let norm = sum.iter().map(|y| y * y).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(failed());
        }
        if norm == 0.0 {
            let vectors = tensor_from_host(test[..self.rank * d].to_vec(), [self.rank, d], &device, dtype);
            return Ok(Curvature::Eigen { vectors, values: Tensor::zeros([self.rank], (&device, dtype)) });
        }
        let epsilon = dtype.finfo().map_or(f64::EPSILON, |info| info.epsilon);
        let shift = SHIFT * epsilon * norm;
        // In units of the norm nothing overflows inside.
        sum.iter_mut().zip(&test).for_each(|(y, omega)| *y = (*y + shift * omega) / norm);

        // Rows one after the other are columns one after the other of the transpose.
        let columns = MatRef::from_column_major_slice(&sum, d, l);
        let core = MatRef::from_column_major_slice(&test, d, l).transpose() * columns;
        let core = Mat::from_fn(l, l, |i, j| 0.5 * (core[(i, j)] + core[(j, i)]));
        let factor = core.llt(Side::Lower).map_err(|_| failed())?;
        let mut root = columns.to_owned();
        factor.L().solve_lower_triangular_in_place(root.as_mut().transpose_mut());
        let found = root.thin_svd().map_err(|_| failed())?;
        let (basis, singular) = (found.U(), found.S().column_vector());

        let values: Vec<f64> = (0..self.rank).map(|k| (singular[k].powi(2) * norm - shift).max(0.0)).collect();
        let vectors: Vec<f64> = (0..self.rank).flat_map(|k| (0..d).map(move |i| basis[(i, k)])).collect();
        // max() hides a NaN, the vectors do not.
        if vectors.iter().chain(&values).any(|v| !v.is_finite()) {
            return Err(failed());
        }
        Ok(Curvature::Eigen {
            vectors: tensor_from_host(vectors, [self.rank, d], &device, dtype),
            values: tensor_from_host(values, [1, self.rank], &device, dtype).squeeze_dim(0),
        })
    }
}

/// Orthonormal rows that span a random subspace of dimension `l ≤ d`, `[l, d]`: the same seed gives nested subspaces.
fn orthonormal_rows(l: usize, d: usize, seed: u64, device: &Device, dtype: DType) -> Tensor<2> {
    let mut seeds = StdRng::seed_from_u64(seed);
    let seeds: Vec<u64> = (0..l).map(|_| seeds.random()).collect();
    let mut rows = vec![0.0; l * d];
    rows.par_chunks_mut(d.max(1)).zip(seeds).for_each(|(row, seed)| {
        let mut rng = StdRng::seed_from_u64(seed);
        for pair in row.chunks_mut(2) {
            // Box and Muller: two uniform numbers make two normal ones.
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
            pair.iter_mut().zip([radius * cos, radius * sin]).for_each(|(value, normal)| *value = normal);
        }
    });
    let basis = MatRef::from_column_major_slice(&rows, d, l).qr().compute_thin_Q();
    let values = (0..l).flat_map(|k| (0..d).map(move |i| (i, k))).map(|place| basis[place]).collect();
    tensor_from_host(values, [l, d], device, dtype)
}
