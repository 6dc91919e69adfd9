use burn::tensor::Tensor;
use hyperinf_gradients::Block;
use hyperinf_linalg::{RandomRows, epsilon, host, normal_product, precise, tensor_from_host};

use crate::storage::test_rows;
use crate::{Curvature, CurvatureError};

/// The first stability shift, in units of the type's precision, which the sums in `Y` have.
const ROUNDINGS: f64 = 4.0;
/// The largest shift over the first.
const GROWTH: f64 = 2e3;

/// A random sketch of the sum of outer products: `Y = Ω Σ g gᵀ` for fixed orthonormal rows `Ω`, `[l, D]`.
pub(crate) struct Sketch {
    rows: RandomRows,
    /// `Ω` in the type of the gradients.
    test: Tensor<2>,
    /// In f64 where the device has it: rounding would grow with the number of batches.
    sum: Tensor<2>,
    rank: usize,
}

impl Sketch {
    /// Draws `Ω` for gradients like these.
    pub(crate) fn new(rank: usize, seed: u64, like: &Tensor<2>) -> Result<Self, CurvatureError> {
        let ([_, d], device, dtype) = (like.dims(), like.device(), like.dtype());
        let rank = rank.min(d);
        let rows = RandomRows::draw([test_rows(rank, d), d], seed).rounded(&device, dtype)?;
        let test = rows.tensor(&device, dtype);
        Ok(Self { sum: precise(test.zeros_like()), test, rows, rank })
    }

    /// Adds the gradients `[n, D]`.
    pub(crate) fn add(&mut self, rows: Tensor<2>) {
        let product = normal_product(self.test.clone(), rows, |products, _| products).0;
        self.sum = self.sum.clone() + product.cast(self.sum.dtype());
    }

    /// The eigenpairs of the Nyström approximation of `H = Σ g gᵀ / n` from `Ω H`.
    pub(crate) fn finish(self, block: &Block, samples: usize) -> Result<Curvature, CurvatureError> {
        let ([_, d], device, dtype) = (self.test.dims(), self.test.device(), self.test.dtype());
        let product = host(self.sum.div_scalar(samples as f64))?;
        let first = ROUNDINGS * epsilon(dtype);
        let pairs = self.rows.nystrom(&product, self.rank, [first, GROWTH * first]);
        let pairs = pairs.map_err(CurvatureError::eigen(block, "the sketch"))?;
        let vectors = tensor_from_host(pairs.vectors, [self.rank, d], &device, dtype);
        let values = tensor_from_host(pairs.values, [1, self.rank], &device, dtype).squeeze_dim(0);
        Ok(Curvature::Eigen { vectors, values })
    }
}
