use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Structure};
use hyperinf_linalg::{epsilon, norms, precise, ratios};

use crate::cg::{check_limits, solution};
use crate::solver::{Observer, check, check_rows};
use crate::{Forecast, Inverse, Plan, Solution, SolveError, Solver, Step, Work, largest_eigenvalue};

/// Power steps at most for the upper bound.
const POWER_STEPS: usize = 60;
/// A power iteration approaches from below; this covers the rest.
const MARGIN: f64 = 1.05;
/// Doublings of the upper bound before the iteration is given up.
const DOUBLINGS: usize = 8;
/// The factor by which rounding may lift the residual above its bound.
const SLACK: f64 = 1.1;
/// Rounding units, times the condition, that a residual may keep.
const ROUNDING: f64 = 10.0;

/// Chebyshev's semi-iteration (Golub and Varga 1961; Saad 2003, algorithm 12.1) on `x ↦ x (H + λI)`: LiSSA's cost per
/// step with the rate of conjugate gradients.
///
/// With bounds `l = λ ≤ μ ≤ u` on the eigenvalues of `H + λI`, `θ = (u+l)/2` and `δ = (u−l)/2`, from `x = 0`, `r = v`:
///
/// ```text
/// d = r/θ,  ρ = δ/θ
/// repeat: x ← x + d,  r ← r − d (H + λI),  w = 2/(2θ − ρδ),  ρ' = δ w/2,  d ← ρρ' d + w r,  ρ ← ρ'
/// ```
///
/// After `k` steps `r = v T_k((θ − A)/δ) / T_k(θ/δ)`, so that `||r|| ≤ ||v|| / T_k(θ/δ)`: about `√κ/2 · log(2/ε)`
/// steps, a number known beforehand. No inner product is read from the device on the way, and one polynomial serves every
/// query: the answer is linear in `v`, which those of [`crate::Cg`] are only to their tolerance.
///
/// Needs a positive semi-definite `H`. `u` is a power estimate with a margin; where a residual contradicts it, it is
/// doubled. All in f64 where the device has f64; the residual of the answer is computed from the definition.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `max_steps` | 1000 | limit on the steps | ≥ 1 |
/// | `tolerance` | 1e-6 | relative residual aimed for | > 0 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chebyshev {
    /// The limit on the steps.
    pub max_steps: usize,
    /// The relative residual aimed for.
    pub tolerance: f64,
}

impl Default for Chebyshev {
    fn default() -> Self {
        Self { max_steps: 1000, tolerance: 1e-6 }
    }
}

impl Solver for Chebyshev {
    fn name(&self) -> &'static str {
        "chebyshev"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn widens_samples(&self) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        check_limits("chebyshev", self.max_steps, self.tolerance)?;
        let h = h.precise();
        let upper = largest_eigenvalue(&h, &h.like(), POWER_STEPS)? * MARGIN + lambda;
        if !upper.is_finite() {
            return Err(SolveError::NonFinite { solver: "chebyshev", what: "the curvature" });
        }
        Ok(Box::new(Prepared { params: *self, h, lambda, upper }))
    }
}

struct Prepared {
    params: Chebyshev,
    h: Curvature,
    lambda: f64,
    /// Of the eigenvalues of `H + λI`.
    upper: f64,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        self.solve(v, None)
    }

    fn apply_observed(&self, v: Tensor<2>, observer: &mut dyn FnMut(&Step)) -> Result<Solution, SolveError> {
        self.solve(v, Some(observer))
    }

    fn plan(&self) -> Plan {
        let Chebyshev { max_steps, tolerance } = self.params;
        let bounds = Bounds { lower: self.lambda, upper: self.upper };
        let forecast = Forecast { condition: bounds.condition(), steps: bounds.steps(tolerance), tolerance };
        Plan { work: Some(Work::Iteration { forecast, max_steps }), ..Plan::of("chebyshev") }
    }
}

impl Prepared {
    fn solve(&self, v: Tensor<2>, mut observer: Observer<'_>) -> Result<Solution, SolveError> {
        check_rows(&v, self.h.parameters())?;
        let Chebyshev { max_steps, tolerance } = self.params;
        let (dtype, rows) = (v.dtype(), v.dims()[0]);
        let v = precise(v);
        if norms(v.clone())?.iter().any(|norm| !norm.is_finite()) {
            return Err(SolveError::NonFinite { solver: "chebyshev", what: "a right-hand side" });
        }
        let mut bounds = Bounds { lower: self.lambda, upper: self.upper };
        let mut doublings = 0;
        loop {
            let steps = bounds.steps(tolerance).min(max_steps);
            let x = self.run(&v, bounds, steps, &mut |number, x, r| {
                let Some(observer) = &mut observer else { return Ok(()) };
                let residuals = ratios(r.clone(), v.clone())?;
                observer(&Step { number, rows: 0..rows, x: x.clone().cast(dtype), residuals });
                Ok(())
            })?;
            let rounding = ROUNDING * epsilon(v.dtype()) * bounds.condition();
            let goal = SLACK * tolerance.max(bounds.certificate(steps)).max(rounding);
            let found = solution("chebyshev", &self.h, self.lambda, (x, v.clone()), steps, tolerance, dtype);
            let residual = match found {
                Ok(found) if found.residual() <= goal => return Ok(found),
                Ok(found) if doublings == DOUBLINGS && found.residual() < 1.0 => return Ok(found),
                Ok(found) => found.residual(),
                Err(SolveError::NonFinite { what: "the solution", .. }) => f64::NAN,
                Err(error) => return Err(error),
            };
            if doublings == DOUBLINGS {
                return Err(SolveError::Diverged { solver: "chebyshev", step: steps, residual });
            }
            // An eigenvalue lies above the bound; or below λ, where no bound helps.
            bounds.upper *= 2.0;
            doublings += 1;
        }
    }

    /// `X` after `steps` steps; `show` sees every `X` with its residual rows.
    fn run(
        &self,
        v: &Tensor<2>,
        Bounds { lower, upper }: Bounds,
        steps: usize,
        show: &mut dyn FnMut(usize, &Tensor<2>, &Tensor<2>) -> Result<(), SolveError>,
    ) -> Result<Tensor<2>, SolveError> {
        let (theta, delta) = (0.5 * (upper + lower), 0.5 * (upper - lower));
        let (mut x, mut r) = (v.zeros_like(), v.clone());
        let (mut d, mut rho) = (v.clone().div_scalar(theta), delta / theta);
        show(0, &x, &r)?;
        for step in 1..=steps {
            x = x + d.clone();
            r = r - self.h.apply(d.clone()) - d.clone().mul_scalar(self.lambda);
            show(step, &x, &r)?;
            let weight = 2.0 / (2.0 * theta - rho * delta);
            let next = 0.5 * delta * weight;
            d = d.mul_scalar(rho * next) + r.clone().mul_scalar(weight);
            rho = next;
        }
        Ok(x)
    }
}

/// Bounds on the eigenvalues of `H + λI`.
#[derive(Clone, Copy)]
struct Bounds {
    lower: f64,
    upper: f64,
}

impl Bounds {
    fn condition(self) -> f64 {
        self.upper / self.lower
    }

    /// `acosh(θ/δ) = 2 atanh √(λ/u)`, by which the logarithm of the residual falls with every step.
    fn rate(self) -> f64 {
        // The quotient θ/δ itself rounds to 1 from a condition of 1e16 on, and the rate to 0.
        2.0 * (self.lower / self.upper).sqrt().atanh()
    }

    /// `1/T_k(θ/δ)`: the relative residual after `k` steps.
    fn certificate(self, steps: usize) -> f64 {
        (steps as f64 * self.rate()).cosh().recip()
    }

    /// The steps after which the certificate is the tolerance.
    fn steps(self, tolerance: f64) -> usize {
        let goal = tolerance.recip().max(1.0).acosh();
        if goal > 0.0 { ((goal / self.rate()).ceil() as usize).max(1) } else { 0 }
    }
}
