use burn::tensor::{DType, Tensor};
use hyperinf_curvature::{Curvature, Structure};
use hyperinf_linalg::{precise, scalars, tensor_from_host};

use crate::precondition::Preconditioned;
use crate::solver::{Observer, check, check_rows, checked, finite};
use crate::{Inverse, Plan, Preconditioner, Solution, SolveError, Solver, Step};

/// The factor by which rounding may lift the true residual above the recurrence's, which the stopping test sees.
const SLACK: f64 = 1.1;

/// Preconditioned conjugate gradients (Hestenes and Stiefel 1952) on `x ↦ x (H + λI)`, all queries at once, each with
/// its own step lengths.
///
/// ```text
/// α = ⟨r, z⟩ / ⟨p, p(H + λI)⟩,  x ← x + α p,  r ← r − α p(H + λI),  z = r P⁻¹,  p ← z + p ⟨r, z⟩ / ⟨r, z⟩_before
/// ```
///
/// Needs about `√κ/2 · log(2/ε)` steps, fewer if eigenvalues are clustered. Runs in f64 where the device has f64: in
/// f32 the attainable residual is about `ε·κ`. A query whose residual `||r|| ≤ tolerance · ||v||` stops; the residual
/// of the answer is computed from the definition. A direction of negative curvature is an error that names the query.
/// [`crate::BlockCg`] needs fewer products for many queries.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `preconditioner` | none | fewer steps | see [`Preconditioner`] |
/// | `max_steps` | 1000 | limit on the steps | ≥ 1 |
/// | `tolerance` | 1e-6 | relative residual aimed for, per query | > 0 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cg {
    /// The preconditioner `P`.
    pub preconditioner: Preconditioner,
    /// The limit on the steps.
    pub max_steps: usize,
    /// The relative residual at which a query stops.
    pub tolerance: f64,
}

impl Default for Cg {
    fn default() -> Self {
        Self { preconditioner: Preconditioner::None, max_steps: 1000, tolerance: 1e-6 }
    }
}

impl Solver for Cg {
    fn name(&self) -> &'static str {
        "cg"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn widens_samples(&self) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        check_limits("cg", self.max_steps, self.tolerance)?;
        let h = h.precise();
        let preconditioner = Preconditioned::new("cg", self.preconditioner, &h, lambda)?;
        Ok(Box::new(Prepared { params: *self, preconditioner, h, lambda }))
    }
}

/// Checks the limits of an iteration.
pub(crate) fn check_limits(solver: &'static str, max_steps: usize, tolerance: f64) -> Result<(), SolveError> {
    let parameter = |parameter, expected, value| Err(SolveError::Parameter { solver, parameter, expected, value });
    if max_steps == 0 {
        return parameter("max_steps", "at least 1", 0.0);
    }
    if tolerance.is_nan() || tolerance <= 0.0 {
        return parameter("tolerance", "positive", tolerance);
    }
    Ok(())
}

/// The solution `x`, with its residuals by definition and its products with held samples, before it is rounded to a
/// type.
pub(crate) fn solution(
    solver: &'static str,
    h: &Curvature,
    lambda: f64,
    (x, v): (Tensor<2>, Tensor<2>),
    iterations: usize,
    tolerance: f64,
    dtype: DType,
) -> Result<Solution, SolveError> {
    let (residuals, products) = checked(h, lambda, x.clone(), v)?;
    let x = x.cast(dtype);
    finite(solver, Solution { x, iterations, residuals, tolerance: Some(tolerance * SLACK), products })
}

/// `||r|| / ||v||` from both squares; a query of zeros counts as `||r||`.
pub(crate) fn relative(squares: &[f64], wholes: &[f64]) -> Vec<f64> {
    squares.iter().zip(wholes).map(|(r, v)| (r / if *v > 0.0 { *v } else { 1.0 }).sqrt()).collect()
}

struct Prepared {
    params: Cg,
    preconditioner: Preconditioned,
    h: Curvature,
    lambda: f64,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        self.solve(v, None)
    }

    fn apply_observed(&self, v: Tensor<2>, observer: &mut dyn FnMut(&Step)) -> Result<Solution, SolveError> {
        self.solve(v, Some(observer))
    }

    fn plan(&self) -> Plan {
        Plan::of("cg")
    }
}

impl Prepared {
    fn solve(&self, v: Tensor<2>, mut observer: Observer<'_>) -> Result<Solution, SolveError> {
        check_rows(&v, self.h.parameters())?;
        let dtype = v.dtype();
        let v = precise(v);
        let (device, working, q) = (v.device(), v.dtype(), v.dims()[0]);
        let column = |values: Vec<f64>| tensor_from_host(values, [q, 1], &device, working);

        let mut x = v.zeros_like();
        let mut r = v.clone();
        let mut squares = scalars(r.clone(), r.clone())?;
        let wholes = squares.clone();
        let goals: Vec<f64> = squares.iter().map(|s| s * self.params.tolerance.powi(2)).collect();
        let mut p = self.preconditioner.apply(r.clone());
        let mut inner = self.inner(&r, &p, &squares)?;
        let mut step = 0;
        loop {
            if let Some(observer) = &mut observer {
                let residuals = relative(&squares, &wholes);
                observer(&Step { number: step, rows: 0..q, x: x.clone().cast(dtype), residuals });
            }
            let active = |i: usize| squares[i] > goals[i];
            if step == self.params.max_steps || !(0..q).any(active) {
                break;
            }
            let product = self.h.apply(p.clone()) + p.clone().mul_scalar(self.lambda);
            let curvatures = scalars(p.clone(), product.clone())?;
            if let Some(i) = (0..q).find(|&i| active(i) && curvatures[i].is_nan()) {
                return Err(SolveError::Diverged { solver: "cg", step, residual: squares[i].sqrt() });
            }
            if let Some(query) = (0..q).find(|&i| active(i) && curvatures[i] <= 0.0) {
                let value = curvatures[query] / scalars(p.clone(), p)?[query];
                return Err(SolveError::NegativeCurvature { solver: "cg", query, step, value });
            }
            let alpha: Vec<f64> = (0..q).map(|i| if active(i) { inner[i] / curvatures[i] } else { 0.0 }).collect();
            let alpha = column(alpha);
            x = x + p.clone() * alpha.clone();
            r = r - product * alpha;
            let next = scalars(r.clone(), r.clone())?;
            let z = self.preconditioner.apply(r.clone());
            let inner_next = self.inner(&r, &z, &next)?;
            let beta = (0..q).map(|i| if active(i) { inner_next[i] / inner[i] } else { 0.0 }).collect();
            p = z + p * column(beta);
            (squares, inner) = (next, inner_next);
            step += 1;
        }
        solution("cg", &self.h, self.lambda, (x, v), step, self.params.tolerance, dtype)
    }

    /// `⟨r, z⟩` of each query, which is `||r||²` without a preconditioner.
    fn inner(&self, r: &Tensor<2>, z: &Tensor<2>, squares: &[f64]) -> Result<Vec<f64>, SolveError> {
        match self.preconditioner {
            Preconditioned::None => Ok(squares.to_vec()),
            _ => Ok(scalars(r.clone(), z.clone())?),
        }
    }
}
