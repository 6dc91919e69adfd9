use burn::tensor::Tensor;
use hyperinf_curvature::Curvature;
use hyperinf_linalg::{host, largest, precise, ratios, tensor_from_host};

use super::TOLERANCE;
use crate::solver::{check_rows, finite};
use crate::{Inverse, Plan, Solution, SolveError};

/// The residual that refinement aims for in f64, and its rounds at most.
const REFINED: f64 = 1e-10;
const REFINEMENTS: usize = 4;

/// An inverse by known eigenvectors, `V (H + λI)⁻¹ ≈ V·inverse + complement·V`, refined in f64.
pub(super) struct Rotated {
    h: Curvature,
    lambda: f64,
    inverse: Curvature,
    complement: f64,
}

impl Rotated {
    /// The inverse of a curvature with known eigenvalues, complete or not: a division in its eigenbasis. Without a
    /// complete basis `x = v/λ + Σ_k (1/(μ_k + λ) − 1/λ) ⟨v, q_k⟩ q_k`.
    pub(super) fn new(h: &Curvature, values: Tensor<2>, complete: bool, lambda: f64) -> Result<Self, SolveError> {
        let h = h.precise();
        let complement = if complete { 0.0 } else { 1.0 / lambda };
        let inverse = h.with_core(reciprocals(precise(values), lambda, complement)?);
        Ok(Self { h, lambda, inverse, complement })
    }
}

/// `1/(μ + λ) − complement` of each eigenvalue.
fn reciprocals(eigenvalues: Tensor<2>, lambda: f64, complement: f64) -> Result<Tensor<2>, SolveError> {
    let (dims, device, dtype) = (eigenvalues.dims(), eigenvalues.device(), eigenvalues.dtype());
    let values = host(eigenvalues)?;
    if values.iter().any(|mu| !mu.is_finite()) {
        return Err(SolveError::NonFinite { solver: "exact", what: "the curvature" });
    }
    if values.iter().any(|mu| mu + lambda <= 0.0) {
        return Err(SolveError::NotPositiveDefinite { solver: "exact", size: values.len(), lambda });
    }
    let inverted = values.into_iter().map(|mu| 1.0 / (mu + lambda) - complement).collect();
    Ok(tensor_from_host(inverted, dims, &device, dtype))
}

impl Inverse for Rotated {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.h.parameters())?;
        let dtype = v.dtype();
        let v = precise(v);
        let divide = |v: Tensor<2>| self.inverse.apply(v.clone()) + v.mul_scalar(self.complement);
        let rest = |x: &Tensor<2>| v.clone() - self.h.apply(x.clone()) - x.clone().mul_scalar(self.lambda);

        let mut x = divide(v.clone());
        let mut left = rest(&x);
        let mut residuals = ratios(left.clone(), v.clone())?;
        for _ in 0..REFINEMENTS {
            let residual = largest(&residuals);
            if residual <= REFINED {
                break;
            }
            let better = x.clone() + divide(left);
            left = rest(&better);
            let next = ratios(left.clone(), v.clone())?;
            let size = largest(&next);
            if size.is_nan() || size >= residual {
                break;
            }
            (x, residuals) = (better, next);
        }
        let solution =
            Solution { x: x.cast(dtype), iterations: 0, residuals, tolerance: Some(TOLERANCE), products: None };
        finite("exact", solution)
    }

    fn plan(&self) -> Plan {
        Plan::of("exact")
    }
}
