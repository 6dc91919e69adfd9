use burn::tensor::{DType, Device, Tensor};
use hyperinf_curvature::{Curvature, Dense};
use hyperinf_linalg::{host, normals, outer, precise, tensor_from_host};
use hyperinf_solvers::{Exact, Solver};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{ConvergenceError, Size};

/// A system `x (H + λI) = v` with its answer.
pub(super) struct Problem {
    /// The samples, `[N, d]`.
    pub(super) samples: Tensor<2>,
    /// `H = (1/N) Σ s sᵀ`, `[d, d]`.
    pub(super) h: Tensor<2>,
    pub(super) lambda: f64,
    /// `[1, d]`.
    pub(super) v: Tensor<2>,
    /// `x`, on the host.
    pub(super) answer: Vec<f64>,
}

impl Problem {
    /// Samples and a right-hand side, all entries standard normal.
    pub(super) fn draw(
        size: Size,
        lambda: f64,
        seed: u64,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, ConvergenceError> {
        let mut rng = StdRng::seed_from_u64(seed);
        let samples = normals(size.samples * size.dim, || rng.random());
        let samples = tensor_from_host(samples, [size.samples, size.dim], device, dtype);
        let v = tensor_from_host(normals(size.dim, || rng.random()), [1, size.dim], device, dtype);
        let h = outer(samples.clone()).div_scalar(size.samples as f64);
        // One round of refinement makes the answer better than the Cholesky solution that is compared with it.
        let dense = Curvature::from(Dense { matrix: precise(h.clone()) });
        let exact = Exact.prepare(&dense, lambda)?;
        let goal = precise(v.clone());
        let first = exact.apply(goal.clone())?.x;
        let rest = goal - dense.apply(first.clone()) - first.clone().mul_scalar(lambda);
        let answer = host(first + exact.apply(rest)?.x)?;
        Ok(Self { samples, h, lambda, v, answer })
    }

    pub(super) fn dense(&self) -> Curvature {
        Curvature::from(Dense { matrix: self.h.clone() })
    }

    /// `A = H + λI`.
    pub(super) fn damped(&self) -> Tensor<2> {
        let eye = Tensor::<2>::eye(self.h.dims()[0], &self.h.device()).cast(self.h.dtype());
        self.h.clone() + eye.mul_scalar(self.lambda)
    }
}
