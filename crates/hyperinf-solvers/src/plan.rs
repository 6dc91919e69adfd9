use std::borrow::Cow;
use std::fmt;

use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use crate::Reason;

/// How one block is inverted, and why: see [`crate::Inverse::plan`].
///
/// Displays as one line for reports; as nothing if the solver's name says it all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The solver that inverts the block; empty for an [`crate::Inverse`] that does not name its solver.
    pub solver: Cow<'static, str>,
    /// Why this solver, where [`crate::Auto`] chose it.
    pub reason: Option<Reason>,
    /// The work, where the solver knows it; `None` for a closed form.
    pub work: Option<Work>,
}

impl Plan {
    /// A plan that names only the solver.
    pub fn of(solver: &'static str) -> Self {
        Self { solver: solver.into(), ..Self::default() }
    }

    /// Steps: those taken on the matrix, or those that suffice for every right-hand side.
    pub fn steps(&self) -> Option<usize> {
        match self.work.as_ref()? {
            Work::Matrix { first, second } => Some(second.as_ref().unwrap_or(first).steps),
            Work::Iteration { forecast, max_steps } => Some(forecast.steps.min(*max_steps)),
            Work::Series { forecast, .. } => forecast.as_ref().map(|forecast| forecast.steps),
            Work::RandomSeries { runs, steps, .. } => Some(runs * steps),
            Work::Note(_) => None,
        }
    }

    /// Products of two matrices, over all attempts; `None` if the work is not of this kind.
    pub fn products(&self) -> Option<usize> {
        match self.work.as_ref()? {
            Work::Matrix { first, second } => Some(first.products + second.as_ref().map_or(0, |run| run.products)),
            Work::Iteration { .. } | Work::Series { .. } | Work::RandomSeries { .. } | Work::Note(_) => None,
        }
    }

    /// The a-priori bound on `||I − A X||₂` of the last matrix iteration.
    pub fn certificate(&self) -> Option<f64> {
        match self.work.as_ref()? {
            Work::Matrix { first, second } => Some(second.as_ref().unwrap_or(first).certificate),
            Work::Iteration { .. } | Work::Series { .. } | Work::RandomSeries { .. } | Work::Note(_) => None,
        }
    }
}

/// The work of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Work {
    /// A matrix iteration, run before the first right-hand side.
    Matrix {
        /// The first attempt.
        first: MatrixRun,
        /// The repetition from a certain bound, if the first attempt missed the tolerance.
        second: Option<MatrixRun>,
    },
    /// An iteration on the right-hand sides whose number of steps follows from the condition.
    Iteration {
        /// The number of steps that suffice, for the condition assumed.
        forecast: Forecast,
        /// The limit on its steps.
        max_steps: usize,
    },
    /// A series on the right-hand sides.
    Series {
        /// `s`, which divides the curvature.
        scale: f64,
        /// The limit on its steps.
        max_steps: usize,
        /// The number of steps that suffice, for a scale that comes from an estimate of the spectrum.
        forecast: Option<Forecast>,
    },
    /// Several series on random batches of samples.
    RandomSeries {
        /// Runs that are averaged.
        runs: usize,
        /// Steps of each run.
        steps: usize,
        /// Samples of each step.
        samples: usize,
        /// `s`, which divides the curvature.
        scale: f64,
        /// `s/λ`, a bound on the condition; `None` for a scale fixed by the caller.
        condition: Option<f64>,
    },
    /// Anything else, in the solver's words.
    Note(String),
}

/// A matrix iteration that has run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatrixRun {
    /// The side `k` of the matrix.
    pub size: usize,
    /// Steps taken.
    pub steps: usize,
    /// Products of two `[k, k]` matrices.
    pub products: usize,
    /// The type in which it ran.
    pub dtype: DType,
    /// The a-priori bound `δ ≥ ||I − A X||₂`.
    pub certificate: f64,
    /// `||I − A X||_F / √k`, estimated with its rounding.
    pub error: f64,
}

/// The steps that suffice for a tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// The condition assumed: `u/λ` for an upper bound `u` on the eigenvalues, `s/λ` for a scale `s`.
    pub condition: f64,
    /// The number of steps.
    pub steps: usize,
    /// The relative residual that they reach.
    pub tolerance: f64,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { solver, reason, work } = self;
        match (reason, work) {
            (None, None) => Ok(()),
            (Some(reason), None) => write!(f, "{solver}: {reason}"),
            (Some(reason), Some(work)) => write!(f, "{solver}: {reason}; {work}"),
            (None, Some(work @ Work::Matrix { .. })) => write!(f, "{solver} {work}"),
            (None, Some(work)) if solver.is_empty() => work.fmt(f),
            (None, Some(work)) => write!(f, "{solver}: {work}"),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matrix { first, second: None } => first.fmt(f),
            Self::Matrix { first, second: Some(second) } => {
                write!(f, "{first}; it missed the tolerance and was repeated {second}")
            }
            Self::Iteration { forecast: Forecast { condition, steps, tolerance }, max_steps } => write!(
                f,
                "condition at most {condition:.1e}, so {steps} steps are enough for {tolerance:.0e}; at most {max_steps} \
                 are taken"
            ),
            Self::Series { scale, max_steps, forecast: None } => {
                write!(f, "at most {max_steps} steps are taken at a scale of {scale:.1e}")
            }
            Self::Series { max_steps, forecast: Some(Forecast { condition, steps, tolerance }), .. } => write!(
                f,
                "s/λ = {condition:.1e}, so {steps} steps are enough for {tolerance:.0e} if s ≥ μ_max/2 + λ; \
                 at most {max_steps} are taken"
            ),
            Self::RandomSeries { runs, steps, samples, scale, condition } => {
                write!(f, "{runs} runs of {steps} steps of {samples} samples")?;
                match condition {
                    Some(condition) => write!(f, ", κ ≤ {condition:.1e}"),
                    None => write!(f, " at a scale of {scale:.1e}"),
                }
            }
            Self::Note(note) => f.write_str(note),
        }
    }
}

impl fmt::Display for MatrixRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, steps, products, dtype, certificate, error } = self;
        write!(
            f,
            "on {size} × {size}: {steps} steps, {products} products in {dtype:?}, ||I − AX|| at most {certificate:.1e} \
             without rounding, {error:.1e} with it; each query is refined from there"
        )
    }
}
