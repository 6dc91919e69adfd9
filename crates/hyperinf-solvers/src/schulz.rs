use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Structure, precise, scalars, symmetric_product};

use crate::solver::{check, check_rows, finite, largest, ratios};
use crate::{Inverse, Solution, SolveError, Solver, certain_bound, spectral_bound};

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
/// `δ` is a certificate: it bounds `||I − A X||₂` in exact arithmetic. In the curvature's own precision the floor is
/// about `ε·κ`; so the iteration also stops when it no longer gains, and each right-hand side is refined with
/// residuals in f64: `x ← x + (v − x A) X`. [`schulz_inverse`] is the iteration alone.
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
                let invert = |upper| schulz_inverse(damped(lambda), lambda, upper, self.tolerance, self.max_steps);
                let found = match invert(upper) {
                    // An eigenvalue above the estimated bound: the certain one costs a few steps more.
                    Err(SolveError::Diverged { .. }) => invert(certain_bound(&matrix)? + lambda)?,
                    found => found?,
                };
                (found.x, found.steps, Some(self.tolerance))
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

/// An approximate inverse of a matrix with what is known of its error.
#[derive(Clone, Debug)]
pub struct MatrixInverse {
    /// `X ≈ A⁻¹`, `[k, k]`.
    pub x: Tensor<2>,
    /// Steps taken.
    pub steps: usize,
    /// The a-priori bound `δ ≥ ||I − A X||₂`, in exact arithmetic.
    pub certificate: f64,
    /// `||I − A X||_F / √k` as computed, with the rounding of the matrix's own type in it.
    pub error: f64,
}

/// The Chebyshev-scaled Schulz iteration on a symmetric positive definite matrix `A`, `[k, k]`, whose eigenvalues lie
/// in `[lower, upper]`: the [`Schulz`] solver without refinement.
///
/// Converges for true bounds; quadratically, `δ ← δ²/(2−δ²)`. Stops at `δ ≤ tolerance`, when the arithmetic gains
/// nothing more, or after `max_steps`. Costs two products of `2k³` flop per step, or one and about `1.2 k³` where the
/// condition allows to mirror the other; the first step has only one.
///
/// # Errors
///
/// If a bound is not positive and finite or they are in the wrong order, or the iteration diverges, which it does if
/// an eigenvalue lies far above `upper`.
pub fn schulz_inverse(
    a: Tensor<2>,
    lower: f64,
    upper: f64,
    tolerance: f64,
    max_steps: usize,
) -> Result<MatrixInverse, SolveError> {
    if !(lower > 0.0 && upper >= lower && upper.is_finite()) {
        let (parameter, expected) = ("lower ≤ upper", "two positive, finite bounds in this order");
        return Err(SolveError::Parameter { solver: "schulz", parameter, expected, value: upper });
    }
    let size = a.dims()[0];
    let eye = identity(size, &a);
    let start = 2.0 / (upper + lower);
    let mut delta = (upper - lower) / (upper + lower);
    let mut x = eye.clone().mul_scalar(start);
    let mut rest = eye.clone() - a.clone().mul_scalar(start);
    let mut error = mean_norm(&rest, size)?;
    let mut steps = 0;
    // X E is symmetric but for rounding, so half of it may be mirrored: only while the matrix is well conditioned.
    // Rounding η in A X reaches X as X η, which the next A X shows as η; its mirror image ηᵀ X would show as A ηᵀ X, up
    // to κ times larger. In f32 the iteration then diverges from κ = 1e4 on, and from 1e3 with A X mirrored as well.
    let epsilon = a.dtype().finfo().map_or(f64::EPSILON, |info| info.epsilon);
    let mirror = epsilon * (upper / lower).powi(2) < 0.01;
    while delta > tolerance && steps < max_steps {
        let scale = 2.0 / (2.0 - delta * delta);
        x = if steps == 0 {
            // From a multiple of I the first step needs no product.
            (eye.clone() + rest).mul_scalar(start * scale)
        } else {
            let correction = if mirror { symmetric_product(x.clone(), rest) } else { x.clone().matmul(rest) };
            (x + correction).mul_scalar(scale)
        };
        steps += 1;
        delta = delta * delta / (2.0 - delta * delta);
        rest = eye.clone() - a.clone().matmul(x.clone());
        let before = std::mem::replace(&mut error, mean_norm(&rest, size)?);
        if !error.is_finite() || (error > 2.0 * before && error > 1.0) {
            return Err(SolveError::Diverged { solver: "schulz", step: steps, residual: error });
        }
        // Quadratic convergence squares the error; a small one that no longer halves is rounding.
        if error < 1e-2 && error > 0.5 * before {
            break;
        }
    }
    Ok(MatrixInverse { x, steps, certificate: delta, error })
}

/// `||M||_F / √size`: the root mean square of the eigenvalues of a symmetric matrix.
fn mean_norm(matrix: &Tensor<2>, size: usize) -> Result<f64, SolveError> {
    let square = scalars(matrix.clone(), matrix.clone())?.iter().sum::<f64>();
    Ok((square / size as f64).sqrt())
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
        let mut residuals = ratios(rest.clone(), goal.clone())?;
        if let Some(tolerance) = self.tolerance {
            for _ in 0..REFINEMENTS {
                let residual = largest(&residuals);
                if residual <= tolerance {
                    break;
                }
                let better = x.clone() + correct(rest.clone());
                let next = goal.clone() - self.target.apply(better.clone());
                let sizes = ratios(next.clone(), goal.clone())?;
                let size = largest(&sizes);
                if size.is_nan() || size >= residual {
                    break;
                }
                (x, rest, residuals) = (better, next, sizes);
            }
        }
        finite(
            self.name,
            Solution { x: x.cast(dtype), iterations: self.steps, residuals, tolerance: self.tolerance, products: None },
        )
    }
}
