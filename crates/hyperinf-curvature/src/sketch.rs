use burn::tensor::Tensor;
use hyperinf_gradients::Block;
use hyperinf_linalg::{RandomRows, epsilon, host, normal_product, precise_type, tensor_from_host, widened};

use crate::storage::test_rows;
use crate::{CurvatureError, Eigenpairs};

/// The first stability shift, in units of the type's precision, which the sums in `Y` have.
const ROUNDINGS: f64 = 4.0;
/// The largest shift over the first.
const GROWTH: f64 = 2e3;

/// A random sketch of the sum of outer products: `Y = Ω Σ g gᵀ` for fixed orthonormal rows `Ω`, `[l, D]`.
#[derive(Clone)]
pub(crate) struct Sketch {
    rank: usize,
    seed: u64,
    /// Drawn for the first gradients, whose device it has.
    sum: Option<Sum>,
}

#[derive(Clone)]
struct Sum {
    rows: RandomRows,
    /// `Ω`, in f64 where the device has it.
    test: Tensor<2>,
    /// `Y`, in the type of `Ω`.
    product: Tensor<2>,
}

impl Sketch {
    /// A sketch for `rank` eigenpairs, with the seed of `Ω`.
    pub(crate) fn new(rank: usize, seed: u64) -> Self {
        Self { rank, seed, sum: None }
    }

    /// Adds the gradients `[n, D]`.
    pub(crate) fn add(&mut self, rows: Tensor<2>) -> Result<(), CurvatureError> {
        let mut sum = match self.sum.take() {
            Some(sum) => sum,
            None => Sum::draw(self.rank, self.seed, &rows)?,
        };
        for rows in widened(rows) {
            sum.product = sum.product + normal_product(sum.test.clone(), rows, |products, _| products).0;
        }
        self.sum = Some(sum);
        Ok(())
    }

    /// Adds the sums of later samples, whose `Ω` must be of the same seed.
    pub(crate) fn merge(&mut self, later: Self) {
        self.sum = match (self.sum.take(), later.sum) {
            (Some(sum), Some(later)) => Some(Sum { product: sum.product + later.product, ..sum }),
            (sum, later) => sum.or(later),
        };
    }

    /// The eigenpairs of the Nyström approximation of `H = Σ g gᵀ / n` from `Ω H`.
    pub(crate) fn finish(self, block: &Block, samples: usize) -> Result<Eigenpairs, CurvatureError> {
        let empty = || CurvatureError::Empty { block: block.name.clone() };
        let Sum { rows, test, product } = self.sum.ok_or_else(empty)?;
        let ([_, d], device, dtype) = (test.dims(), test.device(), test.dtype());
        let rank = self.rank.min(d);
        let product = host(product.div_scalar(samples as f64))?;
        let first = ROUNDINGS * epsilon(dtype);
        let pairs = rows.nystrom(&product, rank, [first, GROWTH * first]);
        let pairs = pairs.map_err(CurvatureError::eigen(block, "the sketch"))?;
        let vectors = tensor_from_host(pairs.vectors, [rank, d], &device, dtype);
        let values = tensor_from_host(pairs.values, [1, rank], &device, dtype).squeeze_dim(0);
        Ok(Eigenpairs { vectors, values })
    }
}

impl Sum {
    fn draw(rank: usize, seed: u64, like: &Tensor<2>) -> Result<Self, CurvatureError> {
        let ([_, d], device) = (like.dims(), like.device());
        let dtype = precise_type(&device, like.dtype());
        let rows = RandomRows::draw([test_rows(rank.min(d), d), d], seed).rounded(&device, dtype)?;
        let test = rows.tensor(&device, dtype);
        Ok(Self { product: test.zeros_like(), test, rows })
    }
}
