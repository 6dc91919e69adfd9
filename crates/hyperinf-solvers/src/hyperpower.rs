mod blocks;
mod elementwise;
mod interval;
mod iterate;
mod matrix;
mod norms;
mod polynomial;
mod prepared;

use burn::tensor::{DType, Tensor};
use hyperinf_curvature::{Curvature, Structure};
use rayon::prelude::*;

use crate::solver::check;
use crate::{Inverse, SolveError, Solver, certain_bound};
use blocks::{Problem, check_finite, damped, side_by_side};
use interval::Interval;
use iterate::{Batch, Iteration};
pub use iterate::{MatrixInverse, MatrixStep};
pub use polynomial::Order;
use prepared::Prepared;

/// Where a hyperpower iteration starts, how its steps are scaled and when it stops.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum HyperpowerStart {
    /// From `2/(u+l)·I` with the Chebyshev polynomial of each step's interval, until the certificate is met.
    #[default]
    Chebyshev,
    /// From `2/(u+l)·I` with the plain steps `X ← X (I + E + … + E^(p−1))`, until the certificate is met.
    Unscaled,
    /// From `scale·I`, unscaled, a fixed number of steps, with `extra_damping` added to `λ`: the HyperINF authors'
    /// program. It does not invert eigenvalues below about `1/(scale·p^steps)`, and diverges above `2/scale`.
    Fixed {
        /// The start, 5e-5 in the authors' program.
        scale: f64,
        /// The steps, 30 here; 15 to 40 in theirs.
        steps: usize,
        /// Added to the diagonal, 0.001 in their program for mislabelled data.
        extra_damping: f64,
    },
}

/// The hyperpower iteration of order 2 (Schulz), 3, 5, 7 or 9, with Chebyshev scaling (HyperINF, Zhou et al. 2024,
/// section 3, with another start).
///
/// With `A = H + λI` (or its one-sided factor) and bounds `l = λ ≤ μ ≤ u` on its eigenvalues:
///
/// ```text
/// X = 2/(u+l) I,  δ = (u−l)/(u+l)
/// repeat: E = I − A X,  X ← X q(E),  δ ← 1/T_p(1/δ)     until δ ≤ tolerance
/// q(E) = (I − T_p(E/δ)/T_p(1/δ)) (I − E)⁻¹,  a polynomial of degree p − 1
/// ```
///
/// `T_p` is Chebyshev's polynomial: among all `q` of this degree, this one leaves the smallest residual on `[−δ, δ]`.
/// For order 2 it is `X ← 2/(2−δ²) · X (I + E)`. `δ` is a certificate: it bounds `||I − A X||₂` in exact arithmetic if
/// `u` bounds `A`. The solver takes for `u` a bound by Lanczos's method, which nearly always does; if the iteration
/// diverges, the error contradicts `δ`, or refinement misses the tolerance, it is repeated with a certain bound.
///
/// In the matrix's own precision the floor is about `ε·κ`. The iteration stops there, or when it gains nothing more,
/// and each right-hand side is refined with residuals in f64: `x ← x + (v − x A) X`. A solver iterates in f32 even for a
/// matrix in f64 as long as `ε·κ` is below 0.03, and refines further then; above, it iterates in f64, if the device has
/// it. [`Hyperpower::invert`] is the iteration alone.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `order` | 2 | order of a step | see [`Order`] |
/// | `start` | Chebyshev | start, scaling and stop | see [`HyperpowerStart`] |
/// | `tolerance` | 1e-6 | relative residual aimed for | in (0, 1) |
/// | `max_steps` | 60 | limit on the steps | |
/// | `first_steps` | none | a shorter type, such as bf16, as long as its rounding allows | scaled steps only |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperpower {
    /// The order of a step.
    pub order: Order,
    /// Start, scaling and stop.
    pub start: HyperpowerStart,
    /// The relative residual aimed for.
    pub tolerance: f64,
    /// The limit on the steps; the fixed start has its own number.
    pub max_steps: usize,
    /// A shorter type than the matrix's for the first steps; ignored where the device does not have it.
    pub first_steps: Option<DType>,
}

impl Default for Hyperpower {
    fn default() -> Self {
        Self { order: Order::Two, start: HyperpowerStart::Chebyshev, tolerance: 1e-6, max_steps: 60, first_steps: None }
    }
}

impl Hyperpower {
    /// Scaled steps of this order.
    pub fn of_order(order: Order) -> Self {
        Self { order, ..Self::default() }
    }

    /// The authors' start and number of steps, for comparisons: 30 steps of order 2 from 5e-5·I with 0.001 more
    /// damping.
    pub fn authors() -> Self {
        let start = HyperpowerStart::Fixed { scale: 5e-5, steps: 30, extra_damping: 1e-3 };
        Self { start, ..Self::default() }
    }

    /// The iteration alone on a symmetric positive definite matrix `A`, `[k, k]`, whose eigenvalues lie in
    /// `[lower, upper]`: no refinement, in the matrix's own type.
    ///
    /// Converges for true bounds, with `δ ← 1/T_p(1/δ)` (unscaled: `δ ← δ^p`). Stops at `δ ≤ tolerance` or
    /// `δ ≤ ε·κ/8`, when the arithmetic gains nothing more, or after `max_steps`. A product costs `2k³` flop; the first
    /// step needs two fewer than [`Order::products`], and each of those only about `1.2 k³` by symmetry.
    ///
    /// # Errors
    ///
    /// If the bounds are not positive and finite, or in the wrong order, or the iteration diverges: it does if an
    /// eigenvalue lies far above `upper`.
    pub fn invert(&self, a: Tensor<2>, lower: f64, upper: f64) -> Result<MatrixInverse, SolveError> {
        self.run_one(a, None, Interval { lower, upper }, upper / lower, None)
    }

    /// [`Hyperpower::invert`], with every `X` shown to an observer, the start first.
    ///
    /// # Errors
    ///
    /// As [`Hyperpower::invert`].
    pub fn invert_observed(
        &self,
        a: Tensor<2>,
        lower: f64,
        upper: f64,
        observer: &mut dyn FnMut(&MatrixStep),
    ) -> Result<MatrixInverse, SolveError> {
        self.run_one(a, None, Interval { lower, upper }, upper / lower, Some(observer))
    }

    /// [`Hyperpower::invert`] from an approximate inverse `X₀`, `[k, k]`, symmetric up to rounding, for which the
    /// eigenvalues of `A X₀` lie in `[lower, upper]`; `condition` bounds the condition of `A`.
    ///
    /// With the inverse at another damping, `X₀ = (H + λ₀I)⁻¹`, they lie between 1 and `λ/λ₀`: the iteration starts
    /// with `δ = |r−1|/(r+1)` for `r = λ/λ₀`. The fixed start's number of steps is not used; steps are scaled.
    ///
    /// # Errors
    ///
    /// As [`Hyperpower::invert`].
    ///
    /// # Panics
    ///
    /// If the two matrices differ in shape.
    pub fn improve(
        &self,
        a: Tensor<2>,
        x: Tensor<2>,
        lower: f64,
        upper: f64,
        condition: f64,
    ) -> Result<MatrixInverse, SolveError> {
        let start = match self.start {
            HyperpowerStart::Fixed { .. } => HyperpowerStart::Chebyshev,
            HyperpowerStart::Chebyshev | HyperpowerStart::Unscaled => self.start,
        };
        // X₀ is better than a short type could hold.
        Self { start, first_steps: None, ..*self }.run_one(a, Some(x), Interval { lower, upper }, condition, None)
    }

    /// The steps and products after which the certificate meets the tolerance, in exact arithmetic, for a matrix of
    /// this condition with true bounds; the fixed start has its own number of steps.
    pub fn forecast(&self, condition: f64) -> (usize, usize) {
        let from_bounds = || self.steps_from(Interval { lower: 1.0, upper: condition.max(1.0) });
        let steps = self.fixed_steps().unwrap_or_else(from_bounds);
        (steps, (self.order.products() * steps).saturating_sub(2))
    }

    /// The number of steps of the fixed start.
    fn fixed_steps(&self) -> Option<usize> {
        match self.start {
            HyperpowerStart::Fixed { steps, .. } => Some(steps),
            HyperpowerStart::Chebyshev | HyperpowerStart::Unscaled => None,
        }
    }

    /// Steps from an interval until the certificate meets the tolerance.
    fn steps_from(&self, interval: Interval) -> usize {
        let mut interval = interval.times(interval.centring(0.0));
        (0..self.max_steps)
            .take_while(|_| {
                let running = interval.certificate() > self.tolerance;
                interval = match self.start {
                    HyperpowerStart::Chebyshev => interval.scaled(self.order).1,
                    HyperpowerStart::Unscaled | HyperpowerStart::Fixed { .. } => interval.unscaled(self.order).1,
                };
                running
            })
            .count()
    }

    /// [`Hyperpower::invert`] for a batch of matrices of one size, `[b, k, k]`, each with its own bounds
    /// `(lower, upper)`, by products of three dimensions. It takes the steps of the slowest matrix; the others rest
    /// once they have ended.
    ///
    /// # Errors
    ///
    /// For the batch if a bound is wrong; for each matrix that diverges.
    ///
    /// # Panics
    ///
    /// If the number of bounds is not that of the matrices.
    pub fn invert_many(
        &self,
        a: Tensor<3>,
        bounds: &[(f64, f64)],
    ) -> Result<Vec<Result<MatrixInverse, SolveError>>, SolveError> {
        assert_eq!(a.dims()[0], bounds.len(), "one pair of bounds for each matrix");
        let intervals = bounds.iter().map(|&(lower, upper)| Interval { lower, upper }).collect();
        let conditions = bounds.iter().map(|(lower, upper)| upper / lower).collect();
        self.run(Batch { a, x: None, intervals, conditions }, None)
    }

    fn run_one(
        &self,
        a: Tensor<2>,
        x: Option<Tensor<2>>,
        bounds: Interval,
        condition: f64,
        observer: Option<&mut dyn FnMut(&MatrixStep)>,
    ) -> Result<MatrixInverse, SolveError> {
        let (a, x) = (a.unsqueeze_dim(0), x.map(|x| x.unsqueeze_dim(0)));
        let batch = Batch { a, x, intervals: vec![bounds], conditions: vec![condition] };
        self.run(batch, observer)?.pop().expect("a batch of one gives one result")
    }

    fn run(
        &self,
        batch: Batch,
        observer: Option<&mut dyn FnMut(&MatrixStep)>,
    ) -> Result<Vec<Result<MatrixInverse, SolveError>>, SolveError> {
        self.validate()?;
        for Interval { lower, upper } in &batch.intervals {
            if !(*lower > 0.0 && upper >= lower && upper.is_finite()) {
                let (parameter, expected) = ("lower ≤ upper", "two positive, finite bounds in this order");
                return Err(SolveError::Parameter { solver: self.label(), parameter, expected, value: *upper });
            }
        }
        Iteration::new(self, batch).run(observer)
    }

    fn validate(&self) -> Result<(), SolveError> {
        let wrong = |parameter, expected, value| {
            Err(SolveError::Parameter { solver: self.label(), parameter, expected, value })
        };
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            return wrong("tolerance", "in (0, 1)", self.tolerance);
        }
        match self.start {
            HyperpowerStart::Fixed { scale, .. } if !(scale > 0.0 && scale.is_finite()) => {
                wrong("scale", "positive and finite", scale)
            }
            HyperpowerStart::Fixed { extra_damping, .. } if !(extra_damping >= 0.0 && extra_damping.is_finite()) => {
                wrong("extra_damping", "finite and not negative", extra_damping)
            }
            _ => Ok(()),
        }
    }

    fn label(&self) -> &'static str {
        match (self.start, self.order) {
            (HyperpowerStart::Chebyshev, Order::Two) => "schulz",
            (HyperpowerStart::Chebyshev, Order::Three) => "hyperpower-3",
            (HyperpowerStart::Chebyshev, Order::Five) => "hyperpower-5",
            (HyperpowerStart::Chebyshev, Order::Seven) => "hyperpower-7",
            (HyperpowerStart::Chebyshev, Order::Nine) => "hyperpower-9",
            (HyperpowerStart::Unscaled, Order::Two) => "schulz-unscaled",
            (HyperpowerStart::Unscaled, Order::Three) => "hyperpower-3-unscaled",
            (HyperpowerStart::Unscaled, Order::Five) => "hyperpower-5-unscaled",
            (HyperpowerStart::Unscaled, Order::Seven) => "hyperpower-7-unscaled",
            (HyperpowerStart::Unscaled, Order::Nine) => "hyperpower-9-unscaled",
            (HyperpowerStart::Fixed { .. }, Order::Two) => "schulz-authors",
            (HyperpowerStart::Fixed { .. }, Order::Three) => "hyperpower-3-fixed",
            (HyperpowerStart::Fixed { .. }, Order::Five) => "hyperpower-5-fixed",
            (HyperpowerStart::Fixed { .. }, Order::Seven) => "hyperpower-7-fixed",
            (HyperpowerStart::Fixed { .. }, Order::Nine) => "hyperpower-9-fixed",
        }
    }
}

impl Solver for Hyperpower {
    fn name(&self) -> &'static str {
        self.label()
    }

    fn supports(&self, structure: Structure) -> bool {
        matches!(structure, Structure::Dense | Structure::OneSided)
    }

    fn is_scale_free(&self) -> bool {
        self.fixed_steps().is_none()
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        self.validate()?;
        let inverse = match self.start {
            HyperpowerStart::Fixed { extra_damping, .. } => {
                let matrix = h.matrix().expect("check() accepts curvatures with a matrix only");
                check_finite(self, matrix)?;
                let a = damped(matrix, lambda + extra_damping);
                // Bounds for the report alone: the certificate of this start promises nothing.
                let upper = certain_bound(&a)?;
                self.invert(a, (lambda + extra_damping).min(upper), upper)?
            }
            HyperpowerStart::Chebyshev | HyperpowerStart::Unscaled => self.inverse(&Problem::new(self, h, lambda)?)?,
        };
        Ok(Box::new(Prepared::new(self, h, lambda, inverse)))
    }

    /// On a device with separate memory, blocks of equal size and type form one batch of three dimensions: fewer and
    /// larger launches. On a processor blocks up to a size of 256 take one core each.
    fn prepare_many(&self, blocks: &[(&Curvature, f64)]) -> Vec<Result<Box<dyn Inverse>, SolveError>> {
        let mut results: Vec<Option<Result<Box<dyn Inverse>, SolveError>>> = blocks.iter().map(|_| None).collect();
        if self.fixed_steps().is_none() && self.validate().is_ok() {
            for group in self.groups(blocks) {
                for (i, inverse) in self.together(&group) {
                    let (h, lambda) = blocks[i];
                    results[i] = Some(Ok(Box::new(Prepared::new(self, h, lambda, inverse))));
                }
            }
        }
        // Blocks that fit no group or failed in one: alone, with all retries and their own errors.
        let alone = |(h, lambda): &(&Curvature, f64)| self.prepare(h, *lambda);
        let mut small: Vec<_> = blocks.par_iter().map(|b| side_by_side(b.0).then(|| alone(b))).collect();
        for (i, result) in results.iter_mut().enumerate() {
            if result.is_none() {
                *result = small[i].take().or_else(|| Some(alone(&blocks[i])));
            }
        }
        results.into_iter().map(|result| result.expect("every block was taken")).collect()
    }

    /// From the largest damping down, each from the inverse at the previous one where that needs fewer steps.
    fn prepare_sweep(&self, h: &Curvature, lambdas: &[f64]) -> Result<Vec<Box<dyn Inverse>>, SolveError> {
        if self.fixed_steps().is_some() {
            return lambdas.iter().map(|lambda| self.prepare(h, *lambda)).collect();
        }
        let mut order: Vec<usize> = (0..lambdas.len()).collect();
        order.sort_by(|&i, &j| lambdas[j].total_cmp(&lambdas[i]));
        let mut inverses: Vec<Option<Box<dyn Inverse>>> = lambdas.iter().map(|_| None).collect();
        let mut last: Option<(f64, MatrixInverse)> = None;
        for i in order {
            check(self, h, lambdas[i])?;
            let problem = Problem::new(self, h, lambdas[i])?;
            let warm = last.as_ref().and_then(|(lambda, inverse)| self.warm(&problem, *lambda, inverse));
            let inverse = warm.map_or_else(|| self.inverse(&problem), Ok)?;
            inverses[i] = Some(Box::new(Prepared::new(self, h, lambdas[i], inverse.clone())));
            last = Some((lambdas[i], inverse));
        }
        Ok(inverses.into_iter().map(|inverse| inverse.expect("every index was in the order")).collect())
    }
}
