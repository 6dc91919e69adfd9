use burn::tensor::{Int, Tensor, TensorData};
use hyperinf_curvature::{Curvature, Structure, scalars};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::solver::{check, check_rows, finite, largest, ratios};
use crate::{Inverse, Solution, SolveError, Solver, largest_eigenvalue, relative_residuals};

/// Power steps for the scale: convergence needs half of the largest eigenvalue only.
const POWER_STEPS: usize = 5;
/// Growth of the residual that says the scale was too small.
const GROWN: f64 = 1.5;
/// Doublings of the scale before the iteration is given up.
const DOUBLINGS: usize = 8;

/// Which part of the curvature a LiSSA step uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LissaBatch {
    /// All of it: a damped Richardson iteration, without noise.
    Full,
    /// Random samples, drawn anew for every step with replacement; the mean over several runs. Needs samples.
    Random {
        /// Samples per step.
        size: usize,
        /// Runs that are averaged.
        repeats: usize,
        /// Seed of the draws.
        seed: u64,
    },
}

/// LiSSA (Agarwal et al. 2017): the Neumann series of the scaled, damped curvature.
///
/// ```text
/// r ← v + r − r (H + λI) / s,   x = r / s
/// ```
///
/// Converges for `s > μ_max(H + λI) / 2`, in about `κ log(1/ε)` steps. `s` is a power estimate of `μ_max` plus 10 %
/// plus `λ`, doubled should the residual grow; for random batches the largest `||g_i||²` plus `λ`, which bounds every
/// batch. The damping is *added* in the operator.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `batch` | full | what a step uses | sizes ≥ 1 |
/// | `max_steps` | 1000 | steps at most | ≥ 1 |
/// | `tolerance` | 1e-3 | relative residual aimed for | > 0 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lissa {
    /// Full or random batches.
    pub batch: LissaBatch,
    /// Steps at most; random batches always take all.
    pub max_steps: usize,
    /// The relative residual at which full batches stop.
    pub tolerance: f64,
}

impl Default for Lissa {
    fn default() -> Self {
        Self { batch: LissaBatch::Full, max_steps: 1000, tolerance: 1e-3 }
    }
}

impl Lissa {
    /// Random batches of 32 samples, four runs of 1000 steps: a noisy answer, aimed at a residual of 0.1.
    pub fn stochastic() -> Self {
        Self { batch: LissaBatch::Random { size: 32, repeats: 4, seed: 0 }, max_steps: 1000, tolerance: 0.1 }
    }
}

impl Solver for Lissa {
    fn name(&self) -> &'static str {
        match self.batch {
            LissaBatch::Full => "lissa",
            LissaBatch::Random { .. } => "lissa-stochastic",
        }
    }

    fn supports(&self, structure: Structure) -> bool {
        self.batch == LissaBatch::Full || structure == Structure::Samples
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        let parameter =
            |parameter, expected, value| Err(SolveError::Parameter { solver: self.name(), parameter, expected, value });
        if self.max_steps == 0 {
            return parameter("max_steps", "at least 1", 0.0);
        }
        if self.tolerance.is_nan() || self.tolerance <= 0.0 {
            return parameter("tolerance", "positive", self.tolerance);
        }
        if let LissaBatch::Random { size, repeats, .. } = self.batch
            && size.min(repeats) == 0
        {
            return parameter("size and repeats", "at least 1", 0.0);
        }
        let largest = match (self.batch, h) {
            (LissaBatch::Random { .. }, Curvature::Samples(rows)) => {
                scalars(rows.clone(), rows.clone())?.into_iter().fold(0.0, f64::max)
            }
            _ => largest_eigenvalue(h, &h.like(), POWER_STEPS)? * 1.1,
        };
        if !largest.is_finite() {
            return Err(SolveError::NonFinite { solver: self.name(), what: "the curvature" });
        }
        Ok(Box::new(Prepared { params: *self, name: self.name(), h: h.clone(), lambda, scale: largest + lambda }))
    }
}

struct Prepared {
    params: Lissa,
    name: &'static str,
    h: Curvature,
    lambda: f64,
    scale: f64,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.h.parameters())?;
        let solution = match (self.params.batch, &self.h) {
            (LissaBatch::Random { size, repeats, seed }, Curvature::Samples(rows)) => {
                self.random(v, rows, size, repeats, seed)?
            }
            _ => self.full(v)?,
        };
        finite(self.name, solution)
    }
}

impl Prepared {
    fn full(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        let (mut r, mut scale, mut doublings) = (v.clone(), self.scale, 0);
        let (mut step, mut last) = (0, f64::INFINITY);
        let residuals = loop {
            // The increment is the residual of x = r/s.
            let product = self.h.apply(r.clone()) + r.clone().mul_scalar(self.lambda);
            let change = v.clone() - product.div_scalar(scale);
            let residuals = ratios(change.clone(), v.clone())?;
            let residual = largest(&residuals);
            if residual <= self.params.tolerance || step == self.params.max_steps {
                break residuals;
            }
            if residual.is_nan() || residual > GROWN * last.max(1.0) {
                if residual.is_nan() || doublings == DOUBLINGS {
                    return Err(SolveError::Diverged { solver: self.name, step, residual });
                }
                (r, scale, last, doublings) = (v.clone(), 2.0 * scale, f64::INFINITY, doublings + 1);
                continue;
            }
            last = last.min(residual);
            r = r + change;
            step += 1;
        };
        let x = r.div_scalar(scale);
        Ok(Solution { x, iterations: step, residuals, tolerance: Some(self.params.tolerance), products: None })
    }

    fn random(
        &self,
        v: Tensor<2>,
        rows: &Tensor<2>,
        size: usize,
        repeats: usize,
        seed: u64,
    ) -> Result<Solution, SolveError> {
        let m = rows.dims()[0];
        let mut rng = StdRng::seed_from_u64(seed);
        let mut total = v.zeros_like();
        for _ in 0..repeats {
            let mut r = v.clone();
            for _ in 0..self.params.max_steps {
                let draw: Vec<i64> = (0..size).map(|_| rng.random_range(0..m) as i64).collect();
                let draw = Tensor::<1, Int>::from_data(TensorData::new(draw, [size]), &rows.device());
                let batch = Curvature::Samples(rows.clone().select(0, draw));
                let product = batch.apply(r.clone()) + r.clone().mul_scalar(self.lambda);
                r = v.clone() + r - product.div_scalar(self.scale);
            }
            total = total + r;
        }
        let x = total.div_scalar(self.scale * repeats as f64);
        let residuals = relative_residuals(&self.h, self.lambda, x.clone(), v)?;
        Ok(Solution {
            x,
            iterations: self.params.max_steps,
            residuals,
            tolerance: Some(self.params.tolerance),
            products: None,
        })
    }
}
