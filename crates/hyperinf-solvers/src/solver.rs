use std::ops::Range;

use burn::tensor::Tensor;
use hyperinf_curvature::{Core, Curvature, Structure};
use hyperinf_linalg::{ReadError, host, largest, ratios};

use crate::{Plan, SolveError};

/// A method that inverts a damped curvature `H + λI`. Implement it to add your own: three methods here, one of
/// [`Inverse`].
///
/// ```
/// use burn::tensor::Tensor;
/// use hyperinf_curvature::{Curvature, Diagonal, Structure};
/// use hyperinf_solvers::{Inverse, Solution, SolveError, Solver, relative_residuals};
///
/// /// `X = V / (mean(diag H) + λ)`, for diagonal curvature.
/// struct Scaled;
///
/// impl Solver for Scaled {
///     fn name(&self) -> &'static str {
///         "scaled"
///     }
///
///     fn supports(&self, structure: Structure) -> bool {
///         structure == Structure::Diagonal
///     }
///
///     fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
///         let mean = match h {
///             Curvature::Diagonal(Diagonal { values }) => values.clone().mean().into_scalar::<f32>(),
///             other => return Err(SolveError::unsupported(self, other.structure())),
///         };
///         Ok(Box::new(Prepared { divisor: f64::from(mean) + lambda, h: h.clone(), lambda }))
///     }
/// }
///
/// struct Prepared {
///     divisor: f64,
///     h: Curvature,
///     lambda: f64,
/// }
///
/// impl Inverse for Prepared {
///     fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
///         let x = v.clone().div_scalar(self.divisor);
///         let residuals = relative_residuals(&self.h, self.lambda, x.clone(), v)?;
///         // No tolerance: this is not the inverse.
///         Ok(Solution { x, iterations: 0, residuals, tolerance: None, products: None })
///     }
/// }
///
/// # fn main() -> Result<(), SolveError> {
/// # let (_, device) = hyperinf_tests::devices().remove(0);
/// let h = Curvature::from(Diagonal { values: Tensor::from_data([1.0, 3.0], &device) });
/// let solution = Scaled.prepare(&h, 1.0)?.apply(Tensor::from_data([[3.0, 3.0]], &device))?;
/// assert!((solution.residual() - (2.0_f64 / 18.0).sqrt()).abs() < 1e-6);
/// assert_eq!(solution.x.into_data().iter::<f32>().collect::<Vec<_>>(), [1.0, 1.0]);
/// # Ok(())
/// # }
/// ```
pub trait Solver: Send + Sync {
    /// The name in reports and in [`crate::solver`].
    fn name(&self) -> &'static str;

    /// Whether [`Solver::prepare`] accepts this structure.
    fn supports(&self, structure: Structure) -> bool;

    /// Whether the answer follows the scale of its input: `cH` and `cλ` give `X/c`. Not so with a constant of its own,
    /// such as a fixed start. Curvature far from 1 is brought near 1, exactly, only for solvers of which this is true.
    fn is_scale_free(&self) -> bool {
        true
    }

    /// Whether samples that a curvature holds are copied into f64 as a whole.
    fn widens_samples(&self) -> bool {
        false
    }

    /// Does the work for `(H + λI)⁻¹` that a block needs once.
    ///
    /// # Errors
    ///
    /// If the structure is unsupported, `λ` is not positive and finite, or the numbers do not allow it.
    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError>;

    /// [`Solver::prepare`] for many blocks at once, each with its own damping; one result per block, in their order.
    ///
    /// A solver made of matrix products may invert blocks of equal size together.
    fn prepare_many(&self, blocks: &[(&Curvature, f64)]) -> Vec<Result<Box<dyn Inverse>, SolveError>> {
        blocks.iter().map(|(h, lambda)| self.prepare(h, *lambda)).collect()
    }

    /// [`Solver::prepare`] for one block at many dampings, in their order.
    ///
    /// A solver may reuse a decomposition, or start from the inverse at the neighbouring damping.
    ///
    /// # Errors
    ///
    /// As [`Solver::prepare`], at the first damping that fails.
    fn prepare_sweep(&self, h: &Curvature, lambdas: &[f64]) -> Result<Vec<Box<dyn Inverse>>, SolveError> {
        lambdas.iter().map(|lambda| self.prepare(h, *lambda)).collect()
    }
}

/// A prepared `(H + λI)⁻¹`.
pub trait Inverse: Send + Sync {
    /// `X` with `X (H + λI) = V`, to the solver's accuracy, for rows `V` `[q, D]`.
    ///
    /// # Errors
    ///
    /// If `V` has not `D` columns, holds NaN, or the iteration diverges.
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError>;

    /// [`Inverse::apply`], with every iterate shown to an observer: the start as step 0, the answer last. The answer is
    /// the same, bit for bit.
    ///
    /// A closed form, and any solver that does not override this method, shows its answer alone. An iteration that
    /// begins again, such as [`crate::Lissa`] with a larger scale, begins again at step 0.
    ///
    /// # Errors
    ///
    /// As [`Inverse::apply`]; iterates before the failure have been shown.
    fn apply_observed(&self, v: Tensor<2>, observer: &mut dyn FnMut(&Step)) -> Result<Solution, SolveError> {
        let solution = self.apply(v)?;
        observer(&solution.step());
        Ok(solution)
    }

    /// How this block is inverted, and why.
    fn plan(&self) -> Plan {
        Plan::default()
    }
}

/// One iterate of a solver, as an observer of [`Inverse::apply_observed`] sees it.
#[derive(Clone, Debug)]
pub struct Step {
    /// The steps taken so far; 0 for the start or a closed form.
    pub number: usize,
    /// The right-hand sides that are solved together; all of them, unless the solver takes them in blocks.
    pub rows: Range<usize>,
    /// `X` for these, `[rows.len(), D]`, in the type of `V`.
    pub x: Tensor<2>,
    /// `||x (H + λI) − v|| / ||v||` of each, as the iteration knows it: by recurrence, where it has one.
    pub residuals: Vec<f64>,
}

/// The answer to a batch of right-hand sides, and how good it is.
#[derive(Clone, Debug)]
pub struct Solution {
    /// `X`, `[q, D]`, in the type of `V`.
    pub x: Tensor<2>,
    /// Steps taken; 0 for a closed form.
    pub iterations: usize,
    /// `||x (H + λI) − v|| / ||v||` of each row, `[q]`.
    pub residuals: Vec<f64>,
    /// The residual that the solver aims for; `None` if it approximates the inverse by design.
    pub tolerance: Option<f64>,
    /// `X Rᵀ`, `[q, m]`, where the curvature is held as samples `R` and the solver has it anyway: the samples' scores
    /// without another pass and, for the dual, without cancellation.
    pub products: Option<Tensor<2>>,
}

impl Solution {
    /// The largest of the residuals; NaN if one is, 0 without rows.
    pub fn residual(&self) -> f64 {
        largest(&self.residuals)
    }

    /// The answer as a step, for an observer.
    pub(crate) fn step(&self) -> Step {
        let Self { x, iterations, residuals, .. } = self;
        Step { number: *iterations, rows: 0..x.dims()[0], x: x.clone(), residuals: residuals.clone() }
    }

    /// Whether every residual is within the tolerance, where there is one.
    pub fn converged(&self) -> bool {
        self.tolerance.is_none_or(|tolerance| self.residual() <= tolerance)
    }
}

/// `||x (H + λI) − v|| / ||v||` of each row, for `[q, D]` each; a row `v = 0` counts as `||x (H + λI)||`.
///
/// # Errors
///
/// If the device fails.
pub fn relative_residuals(h: &Curvature, lambda: f64, x: Tensor<2>, v: Tensor<2>) -> Result<Vec<f64>, ReadError> {
    Ok(checked(h, lambda, x, v)?.0)
}

/// [`relative_residuals`], with `X Rᵀ` where the curvature is held as samples `R`, in the type of `X`.
#[allow(clippy::type_complexity, reason = "two results of one product")]
pub(crate) fn checked(
    h: &Curvature,
    lambda: f64,
    x: Tensor<2>,
    v: Tensor<2>,
) -> Result<(Vec<f64>, Option<Tensor<2>>), ReadError> {
    let (product, products) = match h.core() {
        Core::Samples(rows) => {
            let m = rows.dims()[0] as f64;
            let (product, products) = rows.normal_product(x.clone(), |products, _| products.div_scalar(m));
            (product, Some(products))
        }
        Core::Matrix { .. } | Core::Eigenvalues { .. } => (h.apply(x.clone()), None),
    };
    Ok((ratios(product + x.mul_scalar(lambda) - v.clone(), v)?, products))
}

/// An observer of iterates, if there is one.
pub(crate) type Observer<'a> = Option<&'a mut dyn FnMut(&Step)>;

/// The checks that every `prepare` starts with.
pub(crate) fn check(solver: &dyn Solver, h: &Curvature, lambda: f64) -> Result<(), SolveError> {
    let structure = h.structure();
    if !solver.supports(structure) {
        return Err(SolveError::unsupported(solver, structure));
    }
    if !(lambda > 0.0 && lambda.is_finite()) {
        return Err(SolveError::Damping { solver: solver.name(), lambda });
    }
    Ok(())
}

/// Solves in the type of the curvature, for rows of any type: the answer is in theirs.
pub(crate) fn in_type_of(
    h: &Curvature,
    v: Tensor<2>,
    solve: impl FnOnce(Tensor<2>) -> Result<Solution, SolveError>,
) -> Result<Solution, SolveError> {
    let dtype = v.dtype();
    let mut solution = solve(v.cast(h.like().dtype()))?;
    solution.x = solution.x.cast(dtype);
    Ok(solution)
}

/// The checks that every `apply` starts with.
pub(crate) fn check_rows(v: &Tensor<2>, expected: usize) -> Result<(), SolveError> {
    let found = v.dims()[1];
    if found == expected { Ok(()) } else { Err(SolveError::Shape { found, expected }) }
}

/// The solution, if its residual is finite and its values fit the type to which they are rounded.
pub(crate) fn finite(solver: &'static str, solution: Solution) -> Result<Solution, SolveError> {
    if !solution.residual().is_finite() {
        return Err(SolveError::NonFinite { solver, what: "the solution" });
    }
    for rows in [Some(&solution.x), solution.products.as_ref()].into_iter().flatten() {
        // The residual is that of x before rounding: it shows NaN, but not an overflow of the type.
        if rows.dims().iter().all(|d| *d > 0) && !host(rows.clone().abs().max())?.iter().all(|most| most.is_finite()) {
            return Err(SolveError::NonFinite { solver, what: "the solution, in its type" });
        }
    }
    Ok(solution)
}
