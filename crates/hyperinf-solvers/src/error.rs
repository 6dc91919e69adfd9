use hyperinf_curvature::{CurvatureError, Structure};
use hyperinf_linalg::{MatrixError, ReadError};

use crate::Solver;

/// Why a damped system cannot be solved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// `λ` is not positive and finite.
    #[error("{solver} needs a positive, finite damping, not {lambda}")]
    Damping {
        /// The solver.
        solver: &'static str,
        /// The value given.
        lambda: f64,
    },
    /// A parameter of the solver is out of its range.
    #[error("{solver}: {parameter} must be {expected}, not {value}")]
    Parameter {
        /// The solver.
        solver: &'static str,
        /// The parameter's name.
        parameter: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value given.
        value: f64,
    },
    /// The solver cannot invert this structure: see [`SolveError::unsupported`].
    #[error("{solver} cannot invert a {structure:?} curvature (it can: {supported:?})")]
    Unsupported {
        /// The solver.
        solver: &'static str,
        /// The structure of the curvature.
        structure: Structure,
        /// The structures that it can invert.
        supported: Vec<Structure>,
    },
    /// The length of the right-hand sides is not the number of parameters.
    #[error("right-hand sides have {found} columns, the curvature has {expected} parameters")]
    Shape {
        /// Columns found.
        found: usize,
        /// Columns expected.
        expected: usize,
    },
    /// `H + λI` is not positive definite to working precision.
    #[error("{solver}: H + λI of size {size} with λ = {lambda:.3e} is not positive definite")]
    NotPositiveDefinite {
        /// The solver.
        solver: &'static str,
        /// The matrix's size.
        size: usize,
        /// The damping.
        lambda: f64,
    },
    /// `H + λI` has a direction of negative curvature: `H` has an eigenvalue of `−λ` or less.
    #[error(
        "{solver}: the curvature is not positive definite: query {query} met at step {step} a direction p with pᵀ(H + λI)p / pᵀp = {value:.3e}"
    )]
    NegativeCurvature {
        /// The solver.
        solver: &'static str,
        /// The query, a row of the right-hand sides, whose search met it.
        query: usize,
        /// The step at which it was met.
        step: usize,
        /// `pᵀ(H + λI)p / pᵀp`; `λ` must grow by more than its magnitude.
        value: f64,
    },
    /// A matrix to be factorised is too large.
    #[error(
        "{solver} would factorise a matrix of {size} × {size} in f64, {gib:.1} GiB (at most {limit_gib:.0}): another solver or structure needs less"
    )]
    TooLarge {
        /// The solver.
        solver: &'static str,
        /// The matrix's side: the parameters, a factor's side, or for the dual the samples.
        size: usize,
        /// The matrix's size.
        gib: f64,
        /// The largest size accepted.
        limit_gib: f64,
    },
    /// An iteration grew instead of shrinking.
    #[error("{solver} diverged at step {step}: the residual is {residual:.3e}")]
    Diverged {
        /// The solver.
        solver: &'static str,
        /// The step at which it showed.
        step: usize,
        /// The relative residual there.
        residual: f64,
    },
    /// The curvature or a right-hand side holds NaN or infinity.
    #[error("{solver}: {what} is not finite")]
    NonFinite {
        /// The solver.
        solver: &'static str,
        /// Where the value is.
        what: &'static str,
    },
    /// An operation on the curvature failed.
    #[error(transparent)]
    Curvature(#[from] CurvatureError),
    /// A device failed while values were read back.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl SolveError {
    /// Names the solver and, by `what`, its matrix.
    pub(crate) fn matrix(solver: &'static str, what: &'static str) -> impl Fn(MatrixError) -> Self {
        move |error| match error {
            MatrixError::NonFinite { .. } | MatrixError::NotConverged { .. } => Self::NonFinite { solver, what },
            MatrixError::NotPositiveDefinite { size, shift } => {
                Self::NotPositiveDefinite { solver, size, lambda: shift }
            }
            MatrixError::Read(error) => Self::Read(error),
        }
    }
}

impl SolveError {
    /// [`SolveError::Unsupported`], with the structures that the solver supports.
    pub fn unsupported(solver: &dyn Solver, structure: Structure) -> Self {
        let supported = Structure::ALL.into_iter().filter(|other| solver.supports(*other)).collect();
        Self::Unsupported { solver: solver.name(), structure, supported }
    }
}
