use burn::tensor::Tensor;
use hyperinf_curvature::{Core, Curvature, Structure};
use hyperinf_linalg::{ReadError, host, largest, normal_product, ratios};

use crate::SolveError;

/// A way to invert a damped curvature. Implement it to add one of your own.
pub trait Solver: Send + Sync {
    /// The name, as in reports and in [`crate::solver`].
    fn name(&self) -> &'static str;

    /// Whether [`Solver::prepare`] takes this structure.
    fn supports(&self, structure: Structure) -> bool;

    /// Does what needs to be done once for a block, for `(H + λI)⁻¹`.
    ///
    /// # Errors
    ///
    /// If the structure is unsupported, `λ` is not positive and finite, or the numbers do not allow it.
    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError>;

    /// [`Solver::prepare`] for many blocks at once, each with its own damping; one result per block, in their order.
    ///
    /// A solver of matrix products may take blocks of equal size together.
    fn prepare_many(&self, blocks: &[(&Curvature, f64)]) -> Vec<Result<Box<dyn Inverse>, SolveError>> {
        blocks.iter().map(|(h, lambda)| self.prepare(h, *lambda)).collect()
    }

    /// [`Solver::prepare`] for one block at many dampings, in their order.
    ///
    /// A solver may re-use a decomposition, or start from the inverse at the neighbouring damping.
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

    /// How this block is inverted and why, for reports; empty where the solver's name says it all.
    fn describe(&self) -> String {
        String::new()
    }
}

/// The rows found, and how good they are.
#[derive(Clone, Debug)]
pub struct Solution {
    /// `X`, `[q, D]`, in the type of `V`.
    pub x: Tensor<2>,
    /// Steps taken; 0 for a closed form.
    pub iterations: usize,
    /// `||x (H + λI) − v|| / ||v||` of each row, `[q]`.
    pub residuals: Vec<f64>,
    /// The residual that the solver aims for; `None` for one that solves another problem by design.
    pub tolerance: Option<f64>,
    /// `X Rᵀ`, `[q, m]`, from a solver that has it anyway because the curvature is held as samples `R`: their scores
    /// without another pass and, for the dual, without cancellation.
    pub products: Option<Tensor<2>>,
}

impl Solution {
    /// The largest of the residuals; NaN if one is, 0 without rows.
    pub fn residual(&self) -> f64 {
        largest(&self.residuals)
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
            let (product, products) = normal_product(x.clone(), rows.clone(), |products, _| products.div_scalar(m));
            (product, Some(products))
        }
        Core::Matrix { .. } | Core::Eigenvalues { .. } => (h.apply(x.clone()), None),
    };
    Ok((ratios(product + x.mul_scalar(lambda) - v.clone(), v)?, products))
}

/// The checks that every `prepare` starts with.
pub(crate) fn check(solver: &dyn Solver, h: &Curvature, lambda: f64) -> Result<(), SolveError> {
    let structure = h.structure();
    if !solver.supports(structure) {
        return Err(unsupported(solver, structure));
    }
    if !(lambda > 0.0 && lambda.is_finite()) {
        return Err(SolveError::Damping { solver: solver.name(), lambda });
    }
    Ok(())
}

pub(crate) fn unsupported(solver: &dyn Solver, structure: Structure) -> SolveError {
    let supported = Structure::ALL.into_iter().filter(|s| solver.supports(*s)).collect();
    SolveError::Unsupported { solver: solver.name(), structure, supported }
}

/// The checks that every `apply` starts with.
pub(crate) fn check_rows(v: &Tensor<2>, expected: usize) -> Result<(), SolveError> {
    let found = v.dims()[1];
    if found == expected { Ok(()) } else { Err(SolveError::Shape { found, expected }) }
}

/// A solution, unless its residual says that it is not one, or it does not fit the type that it was rounded to.
pub(crate) fn finite(solver: &'static str, solution: Solution) -> Result<Solution, SolveError> {
    if !solution.residual().is_finite() {
        return Err(SolveError::NonFinite { solver, what: "the solution" });
    }
    for rows in [Some(&solution.x), solution.products.as_ref()].into_iter().flatten() {
        // NaN shows in the residual, which infinity need not: that is taken before x is rounded.
        if rows.dims().iter().all(|d| *d > 0) && !host(rows.clone().abs().max())?.iter().all(|most| most.is_finite()) {
            return Err(SolveError::NonFinite { solver, what: "the solution, in its type" });
        }
    }
    Ok(solution)
}
