use burn::tensor::{DType, Tensor};
use hyperinf_curvature::{Curvature, precise};

use super::blocks::damped;
use super::{Hyperpower, HyperpowerStart, MatrixInverse};
use crate::solver::{check_rows, finite, largest, ratios};
use crate::{Inverse, Solution, SolveError};

/// Refinement rounds at most, each one product with `H` in f64.
const REFINEMENTS: usize = 8;

/// An inverse with the matrix against which its rows are refined.
pub(super) struct Prepared {
    params: Hyperpower,
    /// `A` in f64 where the device has it.
    target: Curvature,
    /// `X ≈ A⁻¹`.
    inverse: Curvature,
    found: Found,
}

/// What is told of the inversion.
struct Found {
    dtype: DType,
    steps: usize,
    products: usize,
    certificate: f64,
    error: f64,
}

impl Prepared {
    pub(super) fn new(params: &Hyperpower, h: &Curvature, lambda: f64, inverse: MatrixInverse) -> Self {
        let matrix = h.matrix().expect("check() accepts curvatures with a matrix only");
        let MatrixInverse { x, steps, products, certificate, error } = inverse;
        let found = Found { dtype: x.dtype(), steps, products, certificate, error };
        let target = h.with_matrix(damped(&precise(matrix.clone()), lambda));
        Self { params: *params, target, inverse: h.with_matrix(x), found }
    }

    fn tolerance(&self) -> Option<f64> {
        let fixed = matches!(self.params.start, HyperpowerStart::Fixed { .. });
        (!fixed).then_some(self.params.tolerance)
    }
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.target.parameters())?;
        let (dtype, tolerance) = (v.dtype(), self.tolerance());
        let working = self.found.dtype;
        let goal = precise(v.clone());
        let precise_type = goal.dtype();
        let correct = |rest: Tensor<2>| self.inverse.apply(rest.cast(working)).cast(precise_type);

        let mut x = correct(goal.clone());
        let mut rest = goal.clone() - self.target.apply(x.clone());
        let mut residuals = ratios(rest.clone(), goal.clone())?;
        if let Some(tolerance) = tolerance {
            for _ in 0..REFINEMENTS {
                if largest(&residuals) <= tolerance {
                    break;
                }
                let better = x.clone() + correct(rest.clone());
                let next = goal.clone() - self.target.apply(better.clone());
                let after = ratios(next.clone(), goal.clone())?;
                if largest(&after).is_nan() || largest(&after) >= largest(&residuals) {
                    break;
                }
                (x, rest, residuals) = (better, next, after);
            }
        }
        let x = x.cast(dtype);
        finite(self.params.label(), Solution { x, iterations: self.found.steps, residuals, tolerance, products: None })
    }

    fn describe(&self) -> String {
        let Found { dtype, steps, products, certificate, error } = &self.found;
        let size = self.inverse.matrix().map_or(0, |x| x.dims()[0]);
        let name = self.params.label();
        format!(
            "{name} on {size} × {size}: {steps} steps, {products} products in {dtype:?}, ||I − AX|| ≤ {certificate:.1e} by \
             certificate, {error:.1e} as computed"
        )
    }
}
