//! Errors of the program, with their exit codes and hints.
//!
//! This module imports libraries only: every other module of the program may import it.

mod hints;

use std::io;
use std::path::PathBuf;

use hyperinf::DeviceError;
use hyperinf::data::{Choice, RunError};
use hyperinf::eval::{EvalError, TruthError};
use hyperinf::gradients::{Estimate, GradientError};
use hyperinf::linalg::ReadError;
use hyperinf::models::ModelError;
use hyperinf::scoring::{ScoreError, SpecError};
use hyperinf::solvers::SolveError;
use hyperinf::store::StoreError;

/// Why the program ended without a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// No method is written like this.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A damping that is not positive and finite.
    #[error("{flag} must be positive and finite, not {value}")]
    Damping {
        /// The flag.
        flag: &'static str,
        /// The value given.
        value: f64,
    },
    /// Two choices that contradict each other.
    #[error("{first} and {second} do not go together: {reason}")]
    Combination {
        /// The one.
        first: String,
        /// The other.
        second: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A number out of its range.
    #[error("{flag} must be {expected}, not {value}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What it must be.
        expected: &'static str,
        /// The value given.
        value: f64,
    },
    /// A type that the device lacks.
    #[error("the device {device} has no {precision}")]
    Precision {
        /// The device.
        device: String,
        /// The type.
        precision: &'static str,
    },
    /// A system of equations cannot be solved.
    #[error("the equations cannot be solved")]
    Solve(#[from] SolveError),
    /// An input file cannot be used.
    #[error("the {what} in `{path}` cannot be used")]
    Input {
        /// What it holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// With `--strict`: a method of a comparison could not be computed.
    #[error("the method {method} was left out: {reason}")]
    LeftOut {
        /// The method.
        method: String,
        /// Why.
        reason: String,
    },
    /// No method of a comparison could be computed.
    #[error("none of the {methods} methods could be computed; {first}: {reason}")]
    NoneComputed {
        /// Their number.
        methods: usize,
        /// The first of them.
        first: String,
        /// Why it could not.
        reason: String,
    },
    /// A share of wrong labels that is not below one half.
    #[error("--noise must be at least 0 and below 0.5, not {value}")]
    Noise {
        /// The value given.
        value: f64,
    },
    /// The device is not available.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Standard output cannot be written; a closed pipe is not an error.
    #[error("standard output cannot be written")]
    Stdout(#[source] io::Error),
    /// Gradients cannot be scored from their files, or a file cannot be written.
    #[error(transparent)]
    Store(StoreError),
    /// The gradients allow no scores.
    #[error("the scores cannot be computed")]
    Score(#[source] ScoreError),
    /// With `--strict`: a solver did not reach its tolerance.
    #[error(
        "{blocks} of {of} blocks did not reach the solver's tolerance: the largest relative residual is {residual:.2e}, in block `{worst}`; expected at most {tolerance:.2e}"
    )]
    NotConverged {
        /// Blocks that did not converge.
        blocks: usize,
        /// All blocks that were inverted.
        of: usize,
        /// The block with the largest residual.
        worst: String,
        /// Its relative residual.
        residual: f64,
        /// The tolerance.
        tolerance: f64,
    },
    /// The demo's data are damaged.
    #[error("the demo's data cannot be used")]
    Data(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The model cannot be trained or run.
    #[error("the model cannot be used like this")]
    Model(#[from] ModelError),
    /// Gradients could not be computed.
    #[error("the gradients cannot be computed")]
    Gradients(#[from] GradientError),
    /// The device failed to return losses.
    #[error("the losses cannot be computed")]
    Losses(#[from] ReadError),
    /// A figure of the demo does not exist.
    #[error("the methods cannot be compared")]
    Eval(#[from] EvalError),
    /// A ground truth could not be computed.
    #[error("the ground truth could not be computed")]
    Truth(#[source] TruthError),
    /// No rows, or more than there are.
    #[error("{flag} asks for {asked} rows of {rows}")]
    Amount {
        /// The flag.
        flag: &'static str,
        /// The rows asked for.
        asked: usize,
        /// The rows that can be used.
        rows: usize,
    },
    /// A run over rows, or a fine-tuning, ended without a result.
    #[error(transparent)]
    Run(RunError),
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Score(error) => Self::Score(error),
            other => Self::Store(other),
        }
    }
}

impl From<RunError> for CliError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Store(error) => error.into(),
            RunError::Score(error) => Self::Score(error),
            RunError::Model(error) => Self::Model(error),
            RunError::Gradients(error) => Self::Gradients(error),
            RunError::Losses(error) => Self::Losses(error),
            RunError::Seeds { count, .. } => {
                let expected = "at least 2 seeds and at most 1,000,000";
                Self::Value { flag: "--uncertainty", expected, value: count as f64 }
            }
            RunError::Conflict { first, second, reason } => {
                let reason = match second {
                    Choice::LanguageModel => {
                        "it is a backward pass per scored token and word of the vocabulary; --draws sketches it"
                    }
                    Choice::NothingRandom => "take --estimate sampled, gauss-newton with --draws, or --project",
                    _ => reason,
                };
                Self::Combination { first: flag(first).into(), second: flag(second), reason }
            }
            other => Self::Run(other),
        }
    }
}

impl CliError {
    /// The error of a run whose number of rows was given by a flag.
    pub(crate) fn amount(flag: &'static str, error: RunError) -> Self {
        match error {
            RunError::Amount { asked, rows } => Self::Amount { flag, asked, rows },
            other => other.into(),
        }
    }
}

/// The flag that makes a choice.
fn flag(choice: Choice) -> &'static str {
    match choice {
        Choice::Estimate(Estimate::Empirical) => "--estimate empirical",
        Choice::Estimate(Estimate::Sampled { .. }) => "--estimate sampled",
        Choice::Estimate(Estimate::GaussNewton { sketch: Some(_) }) => "--estimate gauss-newton",
        Choice::Estimate(Estimate::GaussNewton { sketch: None }) => "--estimate gauss-newton without --draws",
        Choice::Method => "--method",
        Choice::Merged => "--structure merged",
        Choice::Projection => "--project",
        Choice::ErrorBars => "--uncertainty",
        Choice::EachQuery => "--query-mode each",
        Choice::NothingRandom => "nothing that is drawn",
        Choice::LanguageModel => "a language model",
    }
}

impl From<TruthError> for CliError {
    fn from(error: TruthError) -> Self {
        match error {
            TruthError::Score(error) => Self::Score(error),
            error => Self::Truth(error),
        }
    }
}
