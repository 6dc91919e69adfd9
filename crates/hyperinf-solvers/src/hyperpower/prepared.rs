use std::sync::OnceLock;

use burn::tensor::{DType, Tensor};
use hyperinf_curvature::Curvature;
use hyperinf_linalg::{largest, precise, ratios};

use super::blocks::damped;
use super::{Hyperpower, MatrixInverse};
use crate::solver::{check_rows, finite};
use crate::{Inverse, MatrixRun, Plan, Solution, SolveError, Work, certain_bound};

/// Refinement rounds at most, each one product with `H` in f64.
const REFINEMENTS: usize = 8;
/// Below the tolerance rows in f64 are refined to this share of it.
const FURTHER: f64 = 1e-6;

/// An inverse with the matrix against which its rows are refined.
pub(super) struct Prepared {
    params: Hyperpower,
    /// `A` in f64 where the device has it.
    target: Curvature,
    /// A lower bound on its eigenvalues.
    lambda: f64,
    first: Attempt,
    /// Made from a certain bound, in the type of `target`, once `first` has missed the tolerance; `None` if it does not
    /// converge.
    second: OnceLock<Option<Attempt>>,
}

/// Refined rows, their residuals and the steps behind them.
struct Refined {
    x: Tensor<2>,
    residuals: Vec<f64>,
    steps: usize,
}

/// `X ≈ A⁻¹`, with the iteration behind it.
struct Attempt {
    inverse: Curvature,
    run: MatrixRun,
}

impl Prepared {
    pub(super) fn new(params: &Hyperpower, h: &Curvature, lambda: f64, inverse: MatrixInverse) -> Self {
        let matrix = h.matrix().expect("check() accepts curvatures with a matrix only");
        let target = h.with_core(damped(&precise(matrix.clone()), lambda));
        Self { params: *params, target, lambda, first: Attempt::new(h, inverse), second: OnceLock::new() }
    }

    /// The inverse from a certain bound; `None` if it does not converge.
    fn second(&self) -> Option<&Attempt> {
        let made = || {
            let a = self.target.matrix()?;
            let upper = certain_bound(a).ok()?.max(self.lambda);
            let inverse = self.params.invert(a.clone(), self.lambda, upper).ok()?;
            Some(Attempt::new(&self.target, inverse))
        };
        self.second.get_or_init(made).as_ref()
    }

    fn tolerance(&self) -> Option<f64> {
        self.params.fixed_steps().is_none().then_some(self.params.tolerance)
    }
}

impl Attempt {
    fn new(h: &Curvature, inverse: MatrixInverse) -> Self {
        let MatrixInverse { x, steps, products, certificate, error } = inverse;
        let run = MatrixRun { size: x.dims()[0], steps, products, dtype: x.dtype(), certificate, error };
        Self { inverse: h.with_core(x), run }
    }

    /// `X` for a goal, refined against `A` to the tolerance where there is one; `further` for an answer in f64.
    fn refined(
        &self,
        target: &Curvature,
        goal: &Tensor<2>,
        tolerance: Option<f64>,
        further: bool,
    ) -> Result<Refined, SolveError> {
        let tolerance = tolerance.map(|tolerance| if further { tolerance * FURTHER } else { tolerance });
        let correct = |rest: Tensor<2>| self.inverse.apply(rest.cast(self.run.dtype)).cast(goal.dtype());

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
        Ok(Refined { x, residuals, steps: self.run.steps })
    }
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.target.parameters())?;
        let (dtype, tolerance) = (v.dtype(), self.tolerance());
        let goal = precise(v);
        let further = dtype == DType::F64;
        let mut refined = self.first.refined(&self.target, &goal, tolerance, further)?;
        let residual = largest(&refined.residuals);
        // NaN is in the rows; and a larger bound needs even more steps.
        let hopeless = residual.is_nan() || self.first.run.steps >= self.params.max_steps;
        if tolerance.is_some_and(|tolerance| residual > tolerance)
            && !hopeless
            && let Some(second) = self.second()
        {
            let again = second.refined(&self.target, &goal, tolerance, further)?;
            if largest(&again.residuals) < residual {
                refined = again;
            }
        }
        let Refined { x, residuals, steps } = refined;
        let x = x.cast(dtype);
        finite(self.params.label(), Solution { x, iterations: steps, residuals, tolerance, products: None })
    }

    fn plan(&self) -> Plan {
        let second = self.second.get().and_then(Option::as_ref);
        let (first, second) = (self.first.run.clone(), second.map(|attempt| attempt.run.clone()));
        Plan { work: Some(Work::Matrix { first, second }), ..Plan::of(self.params.label()) }
    }
}
