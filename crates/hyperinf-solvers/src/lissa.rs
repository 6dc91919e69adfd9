mod held;
mod series;

use std::sync::OnceLock;

use burn::tensor::Tensor;
use hyperinf_curvature::{Core, Curvature, SampleRows, Samples, Structure, Structured};
use hyperinf_linalg::norms as lengths;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cg::check_limits;
use crate::solver::{Observer, check, check_rows, finite, in_type_of};
use crate::spectrum::{Powers, largest_eigenvalue_along};
use crate::{
    Forecast, Inverse, Plan, Solution, SolveError, Solver, Step, Work, largest_eigenvalue, relative_residuals,
};
use series::Series;

/// Power steps for the scale: convergence needs half of the largest eigenvalue only.
const POWER_STEPS: usize = 5;
/// Rows that are multiplied together with the power iteration's: so few cost nothing but the pass over the samples.
const ALONG: usize = 3;
/// Growth of the residual that shows the scale to be too small.
const GROWN: f64 = 1.5;

/// The part of the curvature that a LiSSA step uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LissaBatch {
    /// The whole curvature: a damped Richardson iteration, without noise.
    Full,
    /// Random samples, drawn for every step with replacement; the mean over several runs and over the last iterates of
    /// each. Needs held samples.
    Random {
        /// Samples per step.
        size: usize,
        /// Runs that are averaged.
        repeats: usize,
        /// The number of last iterates of a run that are averaged. More of them mean less noise, as long as the run has
        /// converged before.
        tail: usize,
        /// Seed of the draws.
        seed: u64,
    },
}

/// The scale `s`, by which LiSSA divides the curvature.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LissaScale {
    /// A power estimate of `μ_max` plus 10 % plus `λ`, doubled if the residual grows; for random batches the largest
    /// `||g_i||²` plus `λ`, which bounds every batch.
    #[default]
    Spectral,
    /// A fixed number above `μ_max(H + λI) / 2`; growth of the residual is an error.
    Fixed(f64),
}

/// LiSSA (Agarwal et al. 2017): the Neumann series of the scaled, damped curvature.
///
/// ```text
/// r ← v + r − r (H + λI) / s,   x = r / s
/// ```
///
/// Converges for `s > μ_max(H + λI) / 2`, and for `s ≥ μ_max(H)/2 + λ` in at most `s/λ · log(1/ε)` steps. With the
/// spectral scale that is about `κ log(1/ε)`, which [`crate::Plan`] forecasts; its power estimate is from below, so
/// that the condition is likely but not certain. The damping is *added* in the operator.
///
/// The same steps are cheaper in other coordinates where the curvature is held as `m` samples with `4m ≤ D`: increments
/// stay in the span of one row and the samples, so that a step costs `2m²` instead of `4mD` per query once the Gram
/// matrix of the samples is known. It is computed if 24 steps do not suffice. With held samples the scale is found by
/// `apply`, and up to three rows share the passes over the samples that it takes: ten steps take eleven passes.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `batch` | full | the samples of a step | sizes ≥ 1, `tail` ≤ `max_steps` |
/// | `scale` | spectral | `s` | see [`LissaScale`] |
/// | `max_steps` | 1000 | limit on the steps | ≥ 1 |
/// | `tolerance` | 1e-3 | relative residual aimed for | > 0 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lissa {
    /// Full or random batches.
    pub batch: LissaBatch,
    /// The divisor `s` of the curvature.
    pub scale: LissaScale,
    /// The limit on the steps; random batches always take all of them.
    pub max_steps: usize,
    /// The relative residual at which full batches stop.
    pub tolerance: f64,
}

impl Default for Lissa {
    fn default() -> Self {
        Self { batch: LissaBatch::Full, scale: LissaScale::Spectral, max_steps: 1000, tolerance: 1e-3 }
    }
}

impl Lissa {
    /// Random batches of 32 samples, four runs of 1000 steps whose second half is averaged: a noisy answer that aims at
    /// a residual of 0.1.
    pub fn stochastic() -> Self {
        let batch = LissaBatch::Random { size: 32, repeats: 4, tail: 500, seed: 0 };
        Self { batch, scale: LissaScale::Spectral, max_steps: 1000, tolerance: 0.1 }
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

    fn is_scale_free(&self) -> bool {
        self.scale == LissaScale::Spectral
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        let solver = self.name();
        check_limits(solver, self.max_steps, self.tolerance)?;
        let parameter = |parameter, expected, value| Err(SolveError::Parameter { solver, parameter, expected, value });
        if let LissaBatch::Random { size, repeats, tail, .. } = self.batch {
            if size.min(repeats) == 0 {
                return parameter("size and repeats", "at least 1", 0.0);
            }
            if !(1..=self.max_steps).contains(&tail) {
                return parameter("tail", "at least 1 and at most max_steps", tail as f64);
            }
        }
        let prepared = |scale| -> Result<Box<dyn Inverse>, SolveError> {
            Ok(Box::new(Prepared { params: *self, name: solver, h: h.clone(), lambda, scale }))
        };
        let scale = match (self.scale, self.batch, h.core()) {
            (LissaScale::Fixed(scale), ..) if !(scale > 0.0 && scale.is_finite()) => {
                return parameter("scale", "positive and finite", scale);
            }
            (LissaScale::Fixed(scale), ..) => scale,
            (LissaScale::Spectral, LissaBatch::Random { .. }, Core::Samples(SampleRows::Formed(rows))) => {
                lengths(rows)?.into_iter().fold(lambda, |most, norm| most.max(norm * norm + lambda))
            }
            (LissaScale::Spectral, LissaBatch::Random { .. }, Core::Samples(rows)) => {
                rows.squared_norms()?.into_iter().fold(lambda, |most, square| most.max(square + lambda))
            }
            // The rows may share the passes over the samples that it takes.
            (LissaScale::Spectral, LissaBatch::Full, Core::Samples(_)) => return prepared(OnceLock::new()),
            (LissaScale::Spectral, ..) => spectral_scale(largest_eigenvalue(h, &h.like(), POWER_STEPS)?, lambda),
        };
        prepared(finite_scale(solver, scale)?.into())
    }
}

/// A scale that is likely above `μ_max/2 + λ`, from an estimate of `μ_max` from below.
fn spectral_scale(largest: f64, lambda: f64) -> f64 {
    largest * 1.1 + lambda
}

fn finite_scale(solver: &'static str, scale: f64) -> Result<f64, SolveError> {
    if scale.is_finite() { Ok(scale) } else { Err(SolveError::NonFinite { solver, what: "the curvature" }) }
}

struct Prepared {
    params: Lissa,
    name: &'static str,
    h: Curvature,
    lambda: f64,
    /// Of held samples it is found with the first rows.
    scale: OnceLock<f64>,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        in_type_of(&self.h, v, |v| self.solve(v, None))
    }

    fn apply_observed(&self, v: Tensor<2>, observer: &mut dyn FnMut(&Step)) -> Result<Solution, SolveError> {
        in_type_of(&self.h, v, |v| self.solve(v, Some(observer)))
    }

    fn plan(&self) -> Plan {
        let Lissa { batch, scale: chosen, max_steps, tolerance } = self.params;
        // A curvature that is not finite is reported by `apply`.
        let scale = self.scale().unwrap_or(f64::NAN);
        let condition = scale / self.lambda;
        let estimated = chosen == LissaScale::Spectral;
        let work = match batch {
            LissaBatch::Full => {
                // (1 − λ/s)^k is what k steps leave where H is 0, which no direction exceeds if s ≥ μ_max/2 + λ.
                let steps = (tolerance.min(1.0).ln() / (-condition.recip()).ln_1p()).ceil().abs() as usize;
                let forecast = estimated.then_some(Forecast { condition, steps, tolerance });
                Work::Series { scale, max_steps, forecast }
            }
            LissaBatch::Random { size: samples, repeats: runs, .. } => {
                let condition = estimated.then_some(condition);
                Work::RandomSeries { runs, steps: max_steps, samples, scale, condition }
            }
        };
        Plan { work: Some(work), ..Plan::of(self.name) }
    }
}

impl Prepared {
    /// `s`.
    fn scale(&self) -> Result<f64, SolveError> {
        if let Some(&scale) = self.scale.get() {
            return Ok(scale);
        }
        let largest = largest_eigenvalue(&self.h, &self.h.like(), POWER_STEPS)?;
        let scale = finite_scale(self.name, spectral_scale(largest, self.lambda))?;
        Ok(*self.scale.get_or_init(|| scale))
    }

    /// `s`, and the powers of the curvature with these rows that finding it has given.
    fn scale_along(&self, v: &Tensor<2>) -> Result<(f64, Powers), SolveError> {
        let Lissa { batch, scale, .. } = self.params;
        let shared = scale == LissaScale::Spectral && batch == LissaBatch::Full && v.dims()[0] <= ALONG;
        if !shared || !matches!(self.h.core(), Core::Samples(_)) {
            return Ok((self.scale()?, Powers::none(v)));
        }
        // Found with all rows that share it, so that the same rows have the same answer.
        let (largest, powers) = largest_eigenvalue_along(&self.h, v, POWER_STEPS)?;
        let scale = finite_scale(self.name, spectral_scale(largest, self.lambda))?;
        self.scale.get_or_init(|| scale);
        Ok((scale, powers))
    }

    fn solve(&self, v: Tensor<2>, observer: Observer<'_>) -> Result<Solution, SolveError> {
        check_rows(&v, self.h.parameters())?;
        let solution = match (self.params.batch, self.h.core()) {
            (LissaBatch::Random { size, repeats, tail, seed }, Core::Samples(rows)) => {
                let solution = self.random(v, &rows, size, [repeats, tail], seed)?;
                if let Some(observer) = observer {
                    // A mean over runs: only the answer is one.
                    observer(&solution.step());
                }
                solution
            }
            _ => Series::new(self, v)?.solve(observer)?,
        };
        finite(self.name, solution)
    }

    fn random(
        &self,
        v: Tensor<2>,
        rows: &SampleRows,
        size: usize,
        [repeats, tail]: [usize; 2],
        seed: u64,
    ) -> Result<Solution, SolveError> {
        let (m, scale) = (rows.dims()[0], self.scale()?);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut total = v.zeros_like();
        for _ in 0..repeats {
            let mut r = v.clone();
            for step in 1..=self.params.max_steps {
                let draw: Vec<usize> = (0..size).map(|_| rng.random_range(0..m)).collect();
                let batch = Samples { rows: rows.select(&draw) };
                let product = batch.apply(r.clone()) + r.clone().mul_scalar(self.lambda);
                r = v.clone() + r - product.div_scalar(scale);
                if step + tail > self.params.max_steps {
                    total = total + r.clone();
                }
            }
        }
        let x = total.div_scalar(scale * (repeats * tail) as f64);
        let residuals = relative_residuals(&self.h, self.lambda, x.clone(), v)?;
        let (iterations, tolerance) = (self.params.max_steps, Some(self.params.tolerance));
        Ok(Solution { x, iterations, residuals, tolerance, products: None })
    }
}
