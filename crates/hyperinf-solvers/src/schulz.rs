use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Structure, precise, scalars, symmetric_product};

use crate::solver::{check, check_rows, finite, largest_ratio};
use crate::{Inverse, Solution, SolveError, Solver, spectral_bound};

/// Refinement rounds at most, each one product with `H` in f64.
const REFINEMENTS: usize = 8;

/// Where a Schulz iteration starts and when it stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SchulzStart {
    /// From `2/(u+l)·I` with the Chebyshev scaling, until the certificate is met.
    Chebyshev,
    /// From `scale·I`, unscaled, a fixed number of steps, with something added to the diagonal beside `λ`: the
    /// HyperINF authors' program. Eigenvalues below about `1/(scale·2^steps)` are not inverted, and above `2/scale`
    /// it diverges.
    Fixed {
        /// The start, 5e-5 in the authors' program.
        scale: f64,
        /// The steps, 30 here; 15 to 40 in theirs.
        steps: usize,
        /// Added to the diagonal, 0.001 in their program for mislabelled data.
        extra_damping: f64,
    },
}

/// Schulz's iteration, the hyperpower method of order 2, with Chebyshev scaling (HyperINF, Zhou et al. 2024,
/// section 3, with another start).
///
/// With `A = H + λI` (or its one-sided factor) and bounds `l = λ ≤ μ ≤ u` on its eigenvalues:
///
/// ```text
/// X = 2/(u+l) I,  δ = (u−l)/(u+l)
/// repeat: E = I − A X,  X ← 2/(2−δ²) · X (I + E),  δ ← δ²/(2−δ²)     until δ ≤ tolerance
/// ```
///
/// `δ` bounds `||I − A X||₂` in exact arithmetic. In the curvature's own precision the floor is about `ε·κ`; so the
/// iteration also stops when it no longer gains, and each right-hand side is refined with residuals in f64:
/// `x ← x + (v − x A) X`.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `start` | Chebyshev | start and stop | see [`SchulzStart`] |
/// | `tolerance` | 1e-6 | relative residual aimed for | in (0, 1) |
/// | `max_steps` | 60 | steps at most | ≥ 1 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schulz {
    /// Start and stop.
    pub start: SchulzStart,
    /// The relative residual aimed for.
    pub tolerance: f64,
    /// Steps at most; the fixed start has its own number.
    pub max_steps: usize,
}

impl Default for Schulz {
    fn default() -> Self {
        Self { start: SchulzStart::Chebyshev, tolerance: 1e-6, max_steps: 60 }
    }
}

impl Schulz {
    /// The authors' start and step count, as a compatibility mode: 30 steps from 5e-5·I with 0.001 more damping.
    pub fn authors() -> Self {
        let start = SchulzStart::Fixed { scale: 5e-5, steps: 30, extra_damping: 1e-3 };
        Self { start, ..Self::default() }
    }
}

impl Solver for Schulz {
    fn name(&self) -> &'static str {
        match self.start {
            SchulzStart::Chebyshev => "schulz",
            SchulzStart::Fixed { .. } => "schulz-authors",
        }
    }

    fn supports(&self, structure: Structure) -> bool {
        matches!(structure, Structure::Dense | Structure::OneSided)
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        let name = self.name();
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            let (parameter, expected) = ("tolerance", "in (0, 1)");
            return Err(SolveError::Parameter { solver: name, parameter, expected, value: self.tolerance });
        }
        let matrix = h.matrix().expect("check() accepts curvatures with a matrix only").clone();
        let size = matrix.dims()[0];
        let damped = |lambda: f64| matrix.clone() + identity(size, &matrix).mul_scalar(lambda);
        let (x, steps, tolerance) = match self.start {
            SchulzStart::Chebyshev => {
                let upper = spectral_bound(&Curvature::Dense(matrix.clone()), &matrix)? + lambda;
                if !upper.is_finite() {
                    return Err(SolveError::NonFinite { solver: name, what: "the curvature" });
                }
                let (x, steps) = self.chebyshev(damped(lambda), lambda, upper)?;
                (x, steps, Some(self.tolerance))
            }
            SchulzStart::Fixed { scale, steps, extra_damping } => {
                let x = fixed(damped(lambda + extra_damping), scale, steps)?;
                (x, steps, None)
            }
        };
        let target = h.with_matrix(precise(damped(lambda)));
        Ok(Box::new(Prepared { name, target, inverse: h.with_matrix(x), steps, tolerance }))
    }
}

impl Schulz {
    fn chebyshev(&self, a: Tensor<2>, lower: f64, upper: f64) -> Result<(Tensor<2>, usize), SolveError> {
        let size = a.dims()[0];
        let eye = identity(size, &a);
        let start = 2.0 / (upper + lower);
        let mut delta = (upper - lower) / (upper + lower);
        let mut x = eye.clone().mul_scalar(start);
        // From a multiple of I the first step needs no product: E = I − start·A, so X(I + E) = start (2I − start·A).
        let mut error = eye.clone() - a.clone().mul_scalar(start);
        let mut last = f64::INFINITY;
        for step in 0..self.max_steps {
            if delta <= self.tolerance {
                return Ok((x, step));
            }
            let scale = 2.0 / (2.0 - delta * delta);
            x = if step == 0 {
                (eye.clone() + error).mul_scalar(start * scale)
            } else {
                let correction = symmetric_product(x.clone(), error);
                (x + correction).mul_scalar(scale)
            };
            delta = delta * delta / (2.0 - delta * delta);
            error = eye.clone() - symmetric_product(a.clone(), x.clone());
            // Frobenius over √size: a mean of the eigenvalues' errors, at most δ.
            let measured = (scalars(error.clone(), error.clone())?.iter().sum::<f64>() / size as f64).sqrt();
            if !measured.is_finite() || (measured > 2.0 * last && measured > 1.0) {
                return Err(SolveError::Diverged { solver: "schulz", step, residual: measured });
            }
            // Past the square root of ε a step that no longer halves the error has met the floor of the arithmetic.
            if measured < 1e-2 && measured > 0.5 * last {
                return Ok((x, step + 1));
            }
            last = measured;
        }
        Ok((x, self.max_steps))
    }
}

/// `X ← X (2I − A X)` from `scale·I`.
fn fixed(mut a: Tensor<2>, scale: f64, steps: usize) -> Result<Tensor<2>, SolveError> {
    let dtype = a.dtype();
    let mut eye = identity(a.dims()[0], &a);
    let mut x = eye.clone().mul_scalar(scale);
    for step in 1..=steps {
        if step == steps {
            // The steps cannot get below their rounding, about ε·κ and above 1e-4 for f32 on LoRA gradients. The last
            // one squares what is left, if it is itself more precise.
            (a, eye, x) = (precise(a), precise(eye), precise(x));
        }
        x = x.clone().matmul(eye.clone().mul_scalar(2.0) - a.clone().matmul(x));
    }
    let x = x.cast(dtype);
    let square = scalars(x.clone(), x.clone())?.iter().sum::<f64>();
    if square.is_finite() {
        Ok(x)
    } else {
        Err(SolveError::Diverged { solver: "schulz-authors", step: steps, residual: square })
    }
}

fn identity(size: usize, like: &Tensor<2>) -> Tensor<2> {
    Tensor::<2>::eye(size, &like.device()).cast(like.dtype())
}

struct Prepared {
    name: &'static str,
    /// `A` in f64 where the device has it.
    target: Curvature,
    /// `X ≈ A⁻¹`.
    inverse: Curvature,
    steps: usize,
    tolerance: Option<f64>,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.target.parameters())?;
        let dtype = v.dtype();
        let working = self.inverse.matrix().map_or(dtype, Tensor::dtype);
        let goal = precise(v.clone());
        let precise_type = goal.dtype();
        let correct = |rest: Tensor<2>| self.inverse.apply(rest.cast(working)).cast(precise_type);

        let mut x = correct(goal.clone());
        let mut rest = goal.clone() - self.target.apply(x.clone());
        let mut residual = largest_ratio(rest.clone(), goal.clone())?;
        if let Some(tolerance) = self.tolerance {
            for _ in 0..REFINEMENTS {
                if residual <= tolerance {
                    break;
                }
                let better = x.clone() + correct(rest.clone());
                let next = goal.clone() - self.target.apply(better.clone());
                let size = largest_ratio(next.clone(), goal.clone())?;
                if size.is_nan() || size >= residual {
                    break;
                }
                (x, rest, residual) = (better, next, size);
            }
        }
        finite(
            self.name,
            Solution { x: x.cast(dtype), iterations: self.steps, residual, tolerance: self.tolerance, products: None },
        )
    }
}
