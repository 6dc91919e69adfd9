use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Structure, normal_product, squares};

use crate::solver::{check, check_rows, finite, ratios};
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
        Ok(Box::new(Prepared { samples: samples.clone(), lambda }))
    }
}

struct Prepared {
    samples: Tensor<2>,
    lambda: f64,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        let [n, d] = self.samples.dims();
        check_rows(&v, d)?;
        let n = n as f64;
        // The norms are taken anew for each batch of queries: from rows in the cache they cost nearly nothing.
        let (sum, _) = normal_product(v.clone(), self.samples.clone(), |products, rows| {
            products / squares(rows.clone()).add_scalar(self.lambda).mul_scalar(n)
        });
        let x = (v.clone() - sum).div_scalar(self.lambda);
        let (fisher, products) = normal_product(x.clone(), self.samples.clone(), |products, _| products.div_scalar(n));
        let residuals = ratios(fisher + x.clone().mul_scalar(self.lambda) - v.clone(), v)?;
        finite("datainf", Solution { x, iterations: 0, residuals, tolerance: None, products: Some(products) })
    }
}
