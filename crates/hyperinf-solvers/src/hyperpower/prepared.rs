use std::sync::OnceLock;

use burn::tensor::{DType, Tensor};
use hyperinf_curvature::Curvature;
use hyperinf_linalg::{largest, precise, ratios};

use super::blocks::damped;
use super::{Hyperpower, HyperpowerStart, MatrixInverse};
use crate::solver::{check_rows, finite};
use crate::{Inverse, Solution, SolveError, certain_bound};

/// Refinement rounds at most, each one product with `H` in f64.
const REFINEMENTS: usize = 8;

/// An inverse with the matrix against which its rows are refined.
pub(super) struct Prepared {
    params: Hyperpower,
    /// `A` in f64 where the device has it.
    target: Curvature,
    /// A lower bound on its eigenvalues.
    lambda: f64,
    first: Found,
    /// Made from a certain bound, in the type of `target`, once `first` has missed the tolerance.
    second: OnceLock<Option<Found>>,
}

/// Rows found, their residuals and the steps behind them.
struct Refined {
    x: Tensor<2>,
    residuals: Vec<f64>,
    steps: usize,
}

/// An inverse, and what is told of it.
struct Found {
    /// `X ≈ A⁻¹`.
    inverse: Curvature,
    dtype: DType,
    steps: usize,
    products: usize,
    certificate: f64,
    error: f64,
}

impl Prepared {
    pub(super) fn new(params: &Hyperpower, h: &Curvature, lambda: f64, inverse: MatrixInverse) -> Self {
        let matrix = h.matrix().expect("check() accepts curvatures with a matrix only");
        let target = h.with_core(damped(&precise(matrix.clone()), lambda));
        Self { params: *params, target, lambda, first: Found::new(h, inverse), second: OnceLock::new() }
    }

    /// The inverse from a bound that is certain; none if it does not converge.
    fn second(&self) -> Option<&Found> {
        let made = || {
            let a = self.target.matrix()?;
            let upper = certain_bound(a).ok()?.max(self.lambda);
            let inverse = self.params.invert(a.clone(), self.lambda, upper).ok()?;
            Some(Found::new(&self.target, inverse))
        };
        self.second.get_or_init(made).as_ref()
    }

    fn tolerance(&self) -> Option<f64> {
        let fixed = matches!(self.params.start, HyperpowerStart::Fixed { .. });
        (!fixed).then_some(self.params.tolerance)
    }
}

impl Found {
    fn new(h: &Curvature, inverse: MatrixInverse) -> Self {
        let MatrixInverse { x, steps, products, certificate, error } = inverse;
        Self { dtype: x.dtype(), inverse: h.with_core(x), steps, products, certificate, error }
    }

    /// `X` for a goal, refined against `A` to the tolerance where there is one.
    fn refined(&self, target: &Curvature, goal: &Tensor<2>, tolerance: Option<f64>) -> Result<Refined, SolveError> {
        let correct = |rest: Tensor<2>| self.inverse.apply(rest.cast(self.dtype)).cast(goal.dtype());

        let mut x = correct(goal.clone());
        let mut rest = goal.clone() - target.apply(x.clone());
        let mut residuals = ratios(rest.clone(), goal.clone())?;
        if let Some(tolerance) = tolerance {
            for _ in 0..REFINEMENTS {
                if largest(&residuals) <= tolerance {
                    break;
                }
                let better = x.clone() + correct(rest.clone());
                let next = goal.clone() - target.apply(better.clone());
                let after = ratios(next.clone(), goal.clone())?;
                if largest(&after).is_nan() || largest(&after) >= largest(&residuals) {
                    break;
                }
                (x, rest, residuals) = (better, next, after);
            }
        }
        Ok(Refined { x, residuals, steps: self.steps })
    }
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.target.parameters())?;
        let (dtype, tolerance) = (v.dtype(), self.tolerance());
        let goal = precise(v);
        let mut refined = self.first.refined(&self.target, &goal, tolerance)?;
        let residual = largest(&refined.residuals);
        // NaN is in the rows; and a larger bound needs more steps yet.
        let hopeless = residual.is_nan() || self.first.steps >= self.params.max_steps;
        if tolerance.is_some_and(|tolerance| residual > tolerance)
            && !hopeless
            && let Some(second) = self.second()
        {
            let again = second.refined(&self.target, &goal, tolerance)?;
            if largest(&again.residuals) < residual {
                refined = again;
            }
        }
        let Refined { x, residuals, steps } = refined;
        let x = x.cast(dtype);
        finite(self.params.label(), Solution { x, iterations: steps, residuals, tolerance, products: None })
    }

    fn describe(&self) -> String {
        let told = |found: &Found| {
            let Found { inverse, dtype, steps, products, certificate, error } = found;
            let size = inverse.matrix().map_or(0, |x| x.dims()[0]);
            format!(
                "on {size} × {size}: {steps} steps, {products} products in {dtype:?}, ||I − AX|| ≤ {certificate:.1e} by \
                 certificate, {error:.1e} as computed"
            )
        };
        let (name, first) = (self.params.label(), told(&self.first));
        match self.second.get().and_then(Option::as_ref) {
            Some(second) => format!("{name} {first}; it missed the tolerance and was repeated {}", told(second)),
            None => format!("{name} {first}"),
        }
    }
}
