//! Errors of the libraries, and which of them are the user's, a file's or the numbers'.

use std::error::Error;

use hyperinf::data::{Choice, DataError, RunError};
use hyperinf::eval::{EvalError, TruthError};
use hyperinf::gradients::{Estimate, GradientError};
use hyperinf::linalg::ReadError;
use hyperinf::models::{GenerateError, ModelError};
use hyperinf::scoring::ScoreError;
use hyperinf::solvers::SolveError;
use hyperinf::store::{ConvertError, IndexError, StoreError};

use super::{CliError, Input, Numbers, Usage};

/// An error of a library.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Library {
    /// Gradients cannot be scored from their files, or a file cannot be written.
    #[error(transparent)]
    Store(StoreError),
    /// The gradients allow no scores.
    #[error("the scores cannot be computed")]
    Score(#[from] ScoreError),
    /// A run over rows, or a fine-tuning, ended without a result.
    #[error(transparent)]
    Run(RunError),
    /// An index cannot be used or written.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Gradients cannot be read to be converted.
    #[error(transparent)]
    Convert(ConvertError),
    /// The model cannot be trained or run.
    #[error("{}", .0.what())]
    Model(#[from] ModelError),
    /// Gradients could not be computed.
    #[error("the gradients cannot be computed")]
    Gradients(#[from] GradientError),
    /// The device failed to return losses.
    #[error("the losses cannot be computed")]
    Losses(#[from] ReadError),
    /// A system of equations cannot be solved.
    #[error("the equations cannot be solved")]
    Solve(#[from] SolveError),
    /// A figure of the demo does not exist.
    #[error("the methods cannot be compared")]
    Eval(#[from] EvalError),
    /// A ground truth could not be computed.
    #[error("the ground truth could not be computed")]
    Truth(#[source] TruthError),
    /// The demo's data are damaged.
    #[error("the demo's data cannot be used")]
    Demo(#[source] Box<dyn Error + Send + Sync>),
}

/// Whose error it is.
enum Class {
    Usage,
    Input,
    Numbers,
    Stopped,
}

impl Library {
    fn class(&self) -> Class {
        match self {
            Self::Store(error) => match error {
                StoreError::Format { .. }
                | StoreError::TableFormat { .. }
                | StoreError::OutputIsInput { .. }
                | StoreError::OtherSummary { .. }
                | StoreError::Output { .. } => Class::Usage,
                StoreError::Score(_)
                | StoreError::Range { .. }
                | StoreError::TooSmall { .. }
                | StoreError::Memory { .. }
                | StoreError::Matrix { .. } => Class::Numbers,
                _ => Class::Input,
            },
            Self::Score(ScoreError::NoCaptures)
            | Self::Score(ScoreError::Pool { .. })
            | Self::Score(ScoreError::Solve { source: SolveError::Unsupported { .. }, .. }) => Class::Usage,
            Self::Convert(ConvertError::Ending { .. }) => Class::Usage,
            Self::Convert(_) => Class::Input,
            Self::Index(error) => match error {
                IndexError::Write(StoreError::Output { .. }) => Class::Usage,
                _ => Class::Input,
            },
            Self::Run(error) => match error {
                RunError::Dataset { source, .. }
                    if matches!(**source, DataError::Ending | DataError::UnusedColumn { .. }) =>
                {
                    Class::Usage
                }
                RunError::NoAdapter { .. }
                | RunError::NoRecording { .. }
                | RunError::OtherLabels { .. }
                | RunError::NoBlock { .. }
                | RunError::Amount { .. }
                | RunError::Exists { .. }
                | RunError::MaxLength { .. }
                | RunError::Seeds { .. }
                | RunError::Selection { .. }
                | RunError::NoGroups { .. }
                | RunError::NoStates { .. }
                | RunError::Conflict { .. }
                | RunError::NotDiffusion { .. }
                | RunError::NotLanguageModel { .. }
                | RunError::NoTiles { .. }
                | RunError::NoImages { .. }
                | RunError::Generate(GenerateError::Prompt { .. })
                | RunError::NotFromIndex { .. }
                | RunError::Part { .. }
                | RunError::NoTokenizer { .. } => Class::Usage,
                RunError::Stopped { .. } => Class::Stopped,
                RunError::Dataset { .. }
                | RunError::NoKind { .. }
                | RunError::Task { .. }
                | RunError::Load { .. }
                | RunError::ImageToken { .. }
                | RunError::Bank(_)
                | RunError::Changed { .. } => Class::Input,
                _ => Class::Numbers,
            },
            Self::Model(
                ModelError::Setting { .. }
                | ModelError::NoPart { .. }
                | ModelError::Target { .. }
                | ModelError::Checkpoint { .. }
                | ModelError::CheckpointWrite { .. }
                | ModelError::CheckpointExists { .. }
                | ModelError::CheckpointDiffers { .. },
            )
            | Self::Truth(TruthError::Setting { .. } | TruthError::Bank { .. } | TruthError::Subset { .. }) => {
                Class::Usage
            }
            Self::Model(
                ModelError::Recording { .. }
                | ModelError::RecordingDiffers { .. }
                | ModelError::OptimizerState { .. }
                | ModelError::Moments { .. }
                | ModelError::NoMetric { .. },
            ) => Class::Input,
            Self::Truth(
                TruthError::OtherTask { .. } | TruthError::BankLine { .. } | TruthError::DamagedLine { .. },
            ) => Class::Input,
            Self::Score(_)
            | Self::Model(_)
            | Self::Gradients(_)
            | Self::Losses(_)
            | Self::Solve(_)
            | Self::Eval(_)
            | Self::Truth(_)
            | Self::Demo(_) => Class::Numbers,
        }
    }
}

impl From<Library> for CliError {
    fn from(error: Library) -> Self {
        match error.class() {
            Class::Usage => Self::Usage(Box::new(Usage::Library(error))),
            Class::Input => Self::Input(Box::new(Input::Library(error))),
            Class::Numbers => Self::Numbers(Box::new(Numbers::Library(error))),
            Class::Stopped => Self::Stopped(Box::new(error)),
        }
    }
}

impl From<StoreError> for Library {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Score(error) => Self::Score(error),
            other => Self::Store(other),
        }
    }
}

impl From<ConvertError> for Library {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::Write(error) => error.into(),
            other => Self::Convert(other),
        }
    }
}

impl From<TruthError> for Library {
    fn from(error: TruthError) -> Self {
        match error {
            TruthError::Score(error) => Self::Score(error),
            other => Self::Truth(other),
        }
    }
}

/// `From` for errors that are one of [`Library`]'s.
macro_rules! from_library {
    ($($error:ty),*) => {
        $(impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Library::from(error).into()
            }
        })*
    };
}

from_library!(
    StoreError,
    ConvertError,
    IndexError,
    ScoreError,
    ModelError,
    GradientError,
    ReadError,
    SolveError,
    EvalError,
    TruthError
);

impl From<RunError> for CliError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Store(error) => error.into(),
            RunError::Index(error) => error.into(),
            RunError::Score(error) => error.into(),
            RunError::Model(error) | RunError::Generate(GenerateError::Model(error)) => error.into(),
            RunError::Gradients(error) => error.into(),
            RunError::Losses(error) => error.into(),
            RunError::Seeds { count, .. } => {
                let expected = "at least 2 seeds and at most 1,000,000";
                Usage::Value { flag: "--uncertainty", expected, value: count as f64 }.into()
            }
            RunError::Conflict { first, second, reason } => {
                let reason = match second {
                    Choice::LanguageModel => {
                        "it is a backward pass per scored token and word of the vocabulary; --draws sketches it"
                    }
                    Choice::NothingRandom => "take --estimate sampled, gauss-newton with --draws, or --project",
                    _ => reason,
                };
                Usage::Combination { first: flag(first).into(), second: flag(second), reason }.into()
            }
            other => Library::Run(other).into(),
        }
    }
}

impl CliError {
    /// The error of a run whose number of rows was given by a flag.
    pub(crate) fn amount(flag: &'static str, error: RunError) -> Self {
        match error {
            RunError::Amount { asked, rows } => Usage::Amount { flag, asked, rows }.into(),
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
        Choice::NothingRandom => "a run without random choices",
        Choice::LanguageModel => "a language model",
        Choice::Tokenizer => "--tokenizer",
        Choice::Diffusion => "a diffusion model",
        Choice::Diverse => "--diverse",
        Choice::Magnitude => "--rank-by magnitude",
        Choice::Normalised => "--normalise",
        Choice::Baseline => "a baseline",
        Choice::Unrolled => "--method unrolled",
        Choice::Trajectory => "--method tracin-cp, tracin-adam or source",
        Choice::Ensemble => "--ensemble",
        Choice::Detect => "detect",
        Choice::Select => "select",
        Choice::Plan => "plan",
        Choice::Metric => "--metric",
        Choice::Refine => "--refine",
        Choice::Stacked => "--timesteps-as stacked",
        Choice::LargeBlocks => "weights that are projected as they are recorded",
        Choice::Blocks => "--blocks",
        Choice::Index => "--index",
        Choice::NearDuplicates => "--drop-duplicates=COSINE",
        Choice::Targets => "several --validation",
        Choice::Positions => "--positions",
        Choice::Ranks => "several ranks",
        Choice::Dropout => "--lora-dropout or --prompt-dropout",
        Choice::WholeBatches => "no --micro-batch",
        Choice::Repeats => "--repeats",
        Choice::SameTraining => "--question same",
        Choice::FreshSeeds => "--question fresh",
        Choice::BestStep => "an adapter of an earlier step than the last",
        Choice::Kind(name) => name,
    }
}
