mod held;

use burn::tensor::{Int, Tensor, TensorData};
use hyperinf_curvature::{Curvature, Samples, Structure, Structured};
use hyperinf_linalg::{host, largest, norms as lengths, tensor_from_host};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cg::check_limits;
use crate::solver::{check, check_rows, finite};
use crate::{Inverse, Solution, SolveError, Solver, largest_eigenvalue, relative_residuals};
use held::Held;

/// Power steps for the scale: convergence needs half of the largest eigenvalue only.
const POWER_STEPS: usize = 5;
/// Growth of the residual that says the scale was too small.
const GROWN: f64 = 1.5;
/// Doublings of the scale before the iteration is given up.
const DOUBLINGS: usize = 8;
/// Steps that are taken on the parameters before those on the samples are worth their Gram matrix.
const STEPS_BEFORE_HELD: usize = 24;
/// Parameters per sample from which steps on the samples are cheaper by more than they cost to prepare.
const HELD_FROM: usize = 4;

/// Which part of the curvature a LiSSA step uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LissaBatch {
    /// All of it: a damped Richardson iteration, without noise.
    Full,
    /// Random samples, drawn anew for every step with replacement; the mean over several runs and over the last
    /// iterates of each. Needs samples.
    Random {
        /// Samples per step.
        size: usize,
        /// Runs that are averaged.
        repeats: usize,
        /// Iterates of a run that are averaged, from its last backwards; 1 takes the last alone. The more, the less noise,
        /// as long as those steps are not needed to converge.
        tail: usize,
        /// Seed of the draws.
        seed: u64,
    },
}

/// What LiSSA divides the curvature by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LissaScale {
    /// A power estimate of `μ_max` plus 10 % plus `λ`, doubled should the residual grow; for random batches the largest
    /// `||g_i||²` plus `λ`, which bounds every batch.
    #[default]
    Spectral,
    /// A number of one's own, above `μ_max(H + λI) / 2`; growth of the residual is an error.
    Fixed(f64),
}

/// LiSSA (Agarwal et al. 2017): the Neumann series of the scaled, damped curvature.
///
/// ```text
/// r ← v + r − r (H + λI) / s,   x = r / s
/// ```
///
/// Converges for `s > μ_max(H + λI) / 2`, and for `s ≥ μ_max(H)/2 + λ` in at most `s/λ · log(1/ε)` steps; a prepared one
/// with the spectral scale, for which that is about `κ log(1/ε)`, describes that number. Its power estimate is from
/// below, so that the condition is likely and not certain. The damping is *added* in the operator.
///
/// The same steps are cheaper in other coordinates where the curvature is `m` samples with `4m ≤ D`: increments stay
/// in the span of one row and the samples, so that a step costs `2m²` instead of `4mD` per query, once the Gram
/// matrix of the samples is there. It is made when 24 steps were not enough.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `batch` | full | what a step uses | sizes ≥ 1, `tail` ≤ `max_steps` |
/// | `scale` | spectral | `s` | see [`LissaScale`] |
/// | `max_steps` | 1000 | steps at most | ≥ 1 |
/// | `tolerance` | 1e-3 | relative residual aimed for | > 0 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lissa {
    /// Full or random batches.
    pub batch: LissaBatch,
    /// What the curvature is divided by.
    pub scale: LissaScale,
    /// Steps at most; random batches always take all.
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
    /// Random batches of 32 samples, four runs of 1000 steps of which the second half is averaged: a noisy answer,
    /// aimed at a residual of 0.1.
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
        let scale = match (self.scale, self.batch, h) {
            (LissaScale::Fixed(scale), ..) if !(scale > 0.0 && scale.is_finite()) => {
                return parameter("scale", "positive and finite", scale);
            }
            (LissaScale::Fixed(scale), ..) => scale,
            (LissaScale::Spectral, LissaBatch::Random { .. }, Curvature::Samples(Samples { rows })) => {
                lengths(rows.clone())?.into_iter().fold(lambda, |most, norm| most.max(norm * norm + lambda))
            }
            (LissaScale::Spectral, ..) => largest_eigenvalue(h, &h.like(), POWER_STEPS)? * 1.1 + lambda,
        };
        if !scale.is_finite() {
            return Err(SolveError::NonFinite { solver, what: "the curvature" });
        }
        Ok(Box::new(Prepared { params: *self, name: solver, h: h.clone(), lambda, scale }))
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
            (LissaBatch::Random { size, repeats, tail, seed }, Curvature::Samples(Samples { rows })) => {
                self.random(v, rows, size, [repeats, tail], seed)?
            }
            _ => self.full(v)?,
        };
        finite(self.name, solution)
    }

    fn describe(&self) -> String {
        let Lissa { batch, scale, max_steps: most, tolerance } = self.params;
        let ratio = self.scale / self.lambda;
        match (batch, scale) {
            (LissaBatch::Full, LissaScale::Fixed(scale)) => {
                format!("lissa: at most {most} steps are taken at a scale of {scale:.1e}")
            }
            (LissaBatch::Full, LissaScale::Spectral) => {
                // (1 − λ/s)^k is what k steps leave where H is 0, which no direction exceeds if s ≥ μ_max/2 + λ.
                let steps = (tolerance.min(1.0).ln() / (-ratio.recip()).ln_1p()).ceil().abs();
                format!(
                    "lissa: s/λ = {ratio:.1e}, so {steps:.0} steps are enough for {tolerance:.0e} if s ≥ μ_max/2 + λ; \
                     at most {most} are taken"
                )
            }
            (LissaBatch::Random { size, repeats, .. }, LissaScale::Fixed(scale)) => {
                format!("lissa: {repeats} runs of {most} steps of {size} samples at a scale of {scale:.1e}")
            }
            (LissaBatch::Random { size, repeats, .. }, LissaScale::Spectral) => {
                format!("lissa: {repeats} runs of {most} steps of {size} samples, κ ≤ {ratio:.1e}")
            }
        }
    }
}

/// A power of two near the largest entry of each row, by which queries of any size fit their type.
fn sizes(v: &Tensor<2>) -> Result<Vec<f64>, SolveError> {
    if v.dims().contains(&0) {
        return Ok(vec![1.0; v.dims()[0]]);
    }
    let largest = host(v.clone().abs().max_dim(1))?;
    let size = |largest: f64| if largest > 0.0 && largest.is_finite() { largest.log2().floor().exp2() } else { 1.0 };
    Ok(largest.into_iter().map(|largest| size(largest).max(f64::from(f32::MIN_POSITIVE))).collect())
}

/// One try at the series with one scale.
struct Run {
    r: Tensor<2>,
    steps: usize,
    /// What `x = r/s` leaves of each query.
    residuals: Vec<f64>,
    /// Whether it ended because the residual grew: the scale is too small.
    grew: bool,
}

impl Prepared {
    fn full(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        let sizes = sizes(&v)?;
        let column = |values: &[f64]| tensor_from_host(values.to_vec(), [values.len(), 1], &v.device(), v.dtype());
        let v = v.clone() / column(&sizes);
        let norms: Vec<f64> = lengths(v.clone())?.into_iter().map(|norm| if norm > 0.0 { norm } else { 1.0 }).collect();
        let mut scale = self.scale;
        let most = if self.params.scale == LissaScale::Spectral { DOUBLINGS } else { 0 };
        for doublings in 0.. {
            let Run { r, steps, residuals, grew } = self.series(&v, &norms, scale)?;
            if !grew {
                let sizes: Vec<f64> = sizes.iter().map(|size| size / scale).collect();
                let (x, tolerance) = (r * column(&sizes), Some(self.params.tolerance));
                return Ok(Solution { x, iterations: steps, residuals, tolerance, products: None });
            }
            let residual = largest(&residuals);
            if residual.is_nan() || doublings == most {
                return Err(SolveError::Diverged { solver: self.name, step: steps, residual });
            }
            scale *= 2.0;
        }
        unreachable!("the loop has no end but its returns")
    }

    /// The series from `r = v` at one scale. The increment is the residual of `x = r/s`.
    fn series(&self, v: &Tensor<2>, norms: &[f64], scale: f64) -> Result<Run, SolveError> {
        let (mut r, mut last) = (v.clone(), f64::INFINITY);
        for step in 0.. {
            let product = self.h.apply(r.clone()) + r.clone().mul_scalar(self.lambda);
            let change = v.clone() - product.div_scalar(scale);
            let residuals: Vec<f64> =
                lengths(change.clone())?.iter().zip(norms).map(|(change, norm)| change / norm).collect();
            let residual = largest(&residuals);
            if residual <= self.params.tolerance || step == self.params.max_steps {
                return Ok(Run { r, steps: step, residuals, grew: false });
            }
            if residual.is_nan() || residual > GROWN * last.max(1.0) {
                return Ok(Run { r, steps: step, residuals, grew: true });
            }
            last = last.min(residual);
            if let Curvature::Samples(Samples { rows }) = &self.h
                && step == STEPS_BEFORE_HELD
                && HELD_FROM * rows.dims()[0] <= rows.dims()[1]
            {
                let held = Held { rows, shrink: 1.0 - self.lambda / scale, scale, norms };
                return held.run(r, change, step, &self.params);
            }
            r = r + change;
        }
        unreachable!("the loop has no end but its returns")
    }

    fn random(
        &self,
        v: Tensor<2>,
        rows: &Tensor<2>,
        size: usize,
        [repeats, tail]: [usize; 2],
        seed: u64,
    ) -> Result<Solution, SolveError> {
        let m = rows.dims()[0];
        let mut rng = StdRng::seed_from_u64(seed);
        let mut total = v.zeros_like();
        for _ in 0..repeats {
            let mut r = v.clone();
            for step in 1..=self.params.max_steps {
                let draw: Vec<i64> = (0..size).map(|_| rng.random_range(0..m) as i64).collect();
                let draw = Tensor::<1, Int>::from_data(TensorData::new(draw, [size]), &rows.device());
                let batch = Samples { rows: rows.clone().select(0, draw) };
                let product = batch.apply(r.clone()) + r.clone().mul_scalar(self.lambda);
                r = v.clone() + r - product.div_scalar(self.scale);
                if step + tail > self.params.max_steps {
                    total = total + r.clone();
                }
            }
        }
        let x = total.div_scalar(self.scale * (repeats * tail) as f64);
        let residuals = relative_residuals(&self.h, self.lambda, x.clone(), v)?;
        let (iterations, tolerance) = (self.params.max_steps, Some(self.params.tolerance));
        Ok(Solution { x, iterations, residuals, tolerance, products: None })
    }
}
