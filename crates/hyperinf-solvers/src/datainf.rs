use burn::tensor::Tensor;
use hyperinf_curvature::{Core, Curvature, SampleRows, Structure};
use hyperinf_linalg::{ReadError, host, precise, ratios};

use crate::solver::{check, check_rows, finite};
use crate::{Inverse, Plan, Solution, SolveError, Solver};

/// DataInf: the mean of the samples' own inverses in place of the inverse of their mean.
///
/// With `u_i` the samples' gradients, by Sherman–Morrison (Kwon et al. 2024, equation 5):
///
/// ```text
/// X = (1/n) Σ_i V (u_i u_iᵀ + λI)⁻¹ = (V − (1/n) Σ_i c_i u_i) / λ,   c_i = ⟨v, u_i⟩ / (λ + ||u_i||²)
/// ```
///
/// Two products with the samples for all queries at once. It never underestimates the inverse and equals it only if
/// all `u_i u_iᵀ` are the same, so its residual measures the approximation, not the arithmetic.
///
/// Products are computed in the type of the samples. Where the samples nearly coincide the subtraction cancels: of
/// `⟨v, u_i⟩` it leaves `λ / (λ + ||u||²)`, about `1/(10 D)` at the usual damping. If it leaves less than a hundredth
/// of a query's largest `⟨v, u_i⟩`, everything is computed again in f64, where the device has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct DataInf;

/// The share of `⟨v, u_i⟩` that the subtraction has to leave for the type of the samples to suffice.
const LEFT: f64 = 0.01;

impl Solver for DataInf {
    fn name(&self) -> &'static str {
        "datainf"
    }

    fn supports(&self, structure: Structure) -> bool {
        structure == Structure::Samples
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        match h.core() {
            Core::Samples(samples) => Ok(Box::new(Prepared { samples, lambda })),
            Core::Matrix { .. } | Core::Eigenvalues { .. } => Err(SolveError::unsupported(self, h.structure())),
        }
    }
}

struct Prepared {
    samples: SampleRows,
    lambda: f64,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.samples.dims()[1])?;
        let (dtype, samples) = (v.dtype(), self.samples.like().dtype());
        let (mut found, cancelled) = self.solve(v.clone().cast(samples))?;
        if cancelled {
            let wide = precise(v);
            if wide.dtype() != samples {
                found = self.solve(wide)?.0;
            }
        }
        found.x = found.x.cast(dtype);
        finite("datainf", found)
    }

    fn plan(&self) -> Plan {
        Plan::of("datainf")
    }
}

impl Prepared {
    /// The solution in the type of `v`, and whether the subtraction left too little.
    fn solve(&self, v: Tensor<2>) -> Result<(Solution, bool), ReadError> {
        let n = self.samples.dims()[0] as f64;
        // The norms are computed for each batch of queries: from rows in the cache they cost nearly nothing.
        let (sum, before) = self
            .samples
            .normal_product(v.clone(), |products, squares| products / squares().add_scalar(self.lambda).mul_scalar(n));
        let x = (v.clone() - sum).div_scalar(self.lambda);
        let (fisher, products) = self.samples.normal_product(x.clone(), |products, _| products.div_scalar(n));
        let residuals = ratios(fisher + x.clone().mul_scalar(self.lambda) - v.clone(), v)?;
        let (after, before) = (largest(&products)?, largest(&before)?);
        let cancelled = after.iter().zip(before).any(|(after, before)| after * self.lambda < LEFT * before);
        Ok((Solution { x, iterations: 0, residuals, tolerance: None, products: Some(products) }, cancelled))
    }
}

/// The largest magnitude of each row.
fn largest(rows: &Tensor<2>) -> Result<Vec<f64>, ReadError> {
    host(rows.clone().abs().max_dim(1))
}
