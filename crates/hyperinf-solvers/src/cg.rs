use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Structure, precise, scalars, tensor_from_host};

use crate::solver::{check, check_rows, finite};
use crate::{Inverse, Solution, SolveError, Solver, relative_residuals};

/// Conjugate gradients on `x ↦ x (H + λI)`, all queries at once, each with its own step lengths.
///
/// Runs in f64 where the device has f64: in f32 the attainable residual is about `ε·κ`. A query whose residual
/// `||r|| ≤ tolerance · ||v||` stops; the answer's residual is computed anew from the definition.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `max_steps` | 1000 | steps at most | ≥ 1 |
/// | `tolerance` | 1e-6 | relative residual aimed for, per query | > 0 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cg {
    /// Steps at most.
    pub max_steps: usize,
    /// The relative residual at which a query stops.
    pub tolerance: f64,
}

impl Default for Cg {
    fn default() -> Self {
        Self { max_steps: 1000, tolerance: 1e-6 }
    }
}

impl Solver for Cg {
    fn name(&self) -> &'static str {
        "cg"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        let parameter =
            |parameter, expected, value| Err(SolveError::Parameter { solver: "cg", parameter, expected, value });
        if self.max_steps == 0 {
            return parameter("max_steps", "at least 1", 0.0);
        }
        if self.tolerance.is_nan() || self.tolerance <= 0.0 {
            return parameter("tolerance", "positive", self.tolerance);
        }
        Ok(Box::new(Prepared { params: *self, h: h.precise(), lambda }))
    }
}

struct Prepared {
    params: Cg,
    h: Curvature,
    lambda: f64,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.h.parameters())?;
        let dtype = v.dtype();
        let v = precise(v);
        let (device, working, q) = (v.device(), v.dtype(), v.dims()[0]);
        let column = |values: Vec<f64>| tensor_from_host(values, [q, 1], &device, working);

        let mut x = v.zeros_like();
        let mut r = v.clone();
        let mut p = v.clone();
        let mut squares = scalars(r.clone(), r.clone())?;
        let goals: Vec<f64> = squares.iter().map(|s| s * self.params.tolerance.powi(2)).collect();
        let mut step = 0;
        while step < self.params.max_steps && squares.iter().zip(&goals).any(|(s, goal)| s > goal) {
            let product = self.h.apply(p.clone()) + p.clone().mul_scalar(self.lambda);
            let curvatures = scalars(p.clone(), product.clone())?;
            let active = |i: usize| squares[i] > goals[i];
            if let Some(i) = (0..q).find(|&i| active(i) && curvatures[i].is_nan()) {
                return Err(SolveError::Diverged { solver: "cg", step, residual: squares[i].sqrt() });
            }
            if (0..q).any(|i| active(i) && curvatures[i] <= 0.0) {
                let size = self.h.parameters();
                return Err(SolveError::NotPositiveDefinite { solver: "cg", size, lambda: self.lambda });
            }
            let alpha: Vec<f64> = (0..q).map(|i| if active(i) { squares[i] / curvatures[i] } else { 0.0 }).collect();
            let alpha = column(alpha);
            x = x + p.clone() * alpha.clone();
            r = r - product * alpha;
            let next = scalars(r.clone(), r.clone())?;
            let beta = (0..q).map(|i| if active(i) { next[i] / squares[i] } else { 0.0 }).collect();
            p = r.clone() + p * column(beta);
            squares = next;
            step += 1;
        }
        let residuals = relative_residuals(&self.h, self.lambda, x.clone(), v)?;
        // The recurrence's residual met the tolerance; the true one may exceed it by rounding.
        let tolerance = Some(self.params.tolerance * 1.1);
        finite("cg", Solution { x: x.cast(dtype), iterations: step, residuals, tolerance, products: None })
    }
}
