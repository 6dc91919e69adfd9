use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Structure, scalars, tensor_from_host, weighted_normal};

use crate::solver::{check, check_rows, finite, largest_ratio};
use crate::{Inverse, Solution, SolveError, Solver};

/// DataInf: the mean of the samples' own inverses in place of the inverse of their mean.
///
/// With `u_i` the samples' gradients, by Sherman–Morrison (Kwon et al. 2024, equation 5):
///
/// ```text
/// X = (1/n) Σ_i V (u_i u_iᵀ + λI)⁻¹ = (V − (1/n) Σ_i c_i u_i) / λ,   c_i = ⟨v, u_i⟩ / (λ + ||u_i||²)
/// ```
///
/// Two products with the samples for all queries at once. It never under-estimates the inverse and equals it only
/// if all `u_i u_iᵀ` are the same, so its residual says how far the approximation is, not how well it was computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct DataInf;

impl Solver for DataInf {
    fn name(&self) -> &'static str {
        "datainf"
    }

    fn supports(&self, structure: Structure) -> bool {
        structure == Structure::Samples
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        let Curvature::Samples(samples) = h else { unreachable!("check() accepts samples only") };
        let n = samples.dims()[0];
        let norms = scalars(samples.clone(), samples.clone())?;
        if norms.iter().any(|s| !s.is_finite()) {
            return Err(SolveError::NonFinite { solver: self.name(), what: "the curvature" });
        }
        let weights = norms.into_iter().map(|square| 1.0 / (n as f64 * (lambda + square))).collect();
        let weights = tensor_from_host(weights, [1, n], &samples.device(), samples.dtype());
        Ok(Box::new(Prepared { samples: samples.clone(), weights, lambda }))
    }
}

struct Prepared {
    samples: Tensor<2>,
    /// `1 / (n (λ + ||u_i||²))`, `[1, n]`.
    weights: Tensor<2>,
    lambda: f64,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        let [n, d] = self.samples.dims();
        check_rows(&v, d)?;
        let (sum, _) = weighted_normal(v.clone(), self.samples.clone(), self.weights.clone());
        let x = (v.clone() - sum).div_scalar(self.lambda);
        let mean = self.weights.full_like(1.0 / n as f64);
        let (fisher, products) = weighted_normal(x.clone(), self.samples.clone(), mean);
        let residual = largest_ratio(fisher + x.clone().mul_scalar(self.lambda) - v.clone(), v)?;
        finite("datainf", Solution { x, iterations: 0, residual, tolerance: None, products: Some(products) })
    }
}
