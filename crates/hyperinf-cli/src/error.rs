//! What can go wrong, the exit code it has, and how it is told.

use std::io;
use std::path::PathBuf;

use hyperinf::DeviceError;
use hyperinf::curvature::CurvatureError;
use hyperinf::eval::EvalError;
use hyperinf::gradients::GradientError;
use hyperinf::models::ModelError;
use hyperinf::scoring::{ScoreError, Set};

use crate::demo::DataError;
use crate::gradient_file::{BadValue, FileError};
use crate::output::WriteError;

/// The names listed in one message at most.
const LISTED: usize = 5;

/// Why the program ends without success.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// No method has this name.
    #[error("there is no method `{name}`")]
    Method {
        /// The name given.
        name: String,
        /// The name most like it, if one is like it.
        nearest: Option<&'static str>,
    },
    /// A damping that does not damp.
    #[error("{flag} must be positive and finite, not {value}")]
    Damping {
        /// The flag.
        flag: &'static str,
        /// The value given.
        value: f64,
    },
    /// A share of wrong labels that leaves no majority of right ones.
    #[error("--noise must be at least 0 and below 0.5, not {value}")]
    Noise {
        /// The value given.
        value: f64,
    },
    /// The device cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The ending of the output file is not one of the formats.
    #[error("the output `{path}` must end in .safetensors, .parquet or .csv")]
    OutputKind {
        /// The path given.
        path: PathBuf,
    },
    /// The output would overwrite an input.
    #[error("the output `{path}` is also an input")]
    OutputIsInput {
        /// The path given.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("the output `{path}` cannot be written")]
    Output {
        /// The file or its folder.
        path: PathBuf,
        /// Why.
        source: WriteError,
    },
    /// Standard output cannot be written, for another reason than that nobody reads on.
    #[error("standard output cannot be written")]
    Stdout(#[source] io::Error),
    /// An input file cannot be used.
    #[error("the {set} gradients in `{path}` cannot be used")]
    File {
        /// Which of the inputs.
        set: Set,
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// The two inputs have blocks of different names.
    #[error("the two files must have the same blocks: {}", differences(.train, .only_train, .query, .only_query))]
    Blocks {
        /// The training gradients.
        train: PathBuf,
        /// Blocks that only they have.
        only_train: Vec<String>,
        /// The query gradients.
        query: PathBuf,
        /// Blocks that only they have.
        only_query: Vec<String>,
    },
    /// A block has different sides in the two inputs.
    #[error(
        "block `{block}` has the shape {train_shape:?} in `{train}` but {query_shape:?} in `{query}`: all but the first number must be equal"
    )]
    Sides {
        /// The block's name.
        block: String,
        /// The training gradients.
        train: PathBuf,
        /// Its shape there.
        train_shape: Vec<usize>,
        /// The query gradients.
        query: PathBuf,
        /// Its shape there.
        query_shape: Vec<usize>,
    },
    /// NaN or infinity in an input file.
    #[error(
        "the {set} gradients in `{path}` have the value {} in block `{}`, sample {sample}, at {:?}; expected finite numbers",
        .bad.value, .bad.block, .bad.index
    )]
    NonFinite {
        /// Which of the inputs.
        set: Set,
        /// The file.
        path: PathBuf,
        /// The sample's index.
        sample: usize,
        /// The value and its place.
        bad: BadValue,
    },
    /// Numbers so large that their squares overflow.
    #[error(
        "the {set} gradients in `{path}` are too large in block `{block}`, sample {sample}: their squared norm is {square}; expected a finite one"
    )]
    TooLarge {
        /// Which of the inputs.
        set: Set,
        /// The file.
        path: PathBuf,
        /// The block's name.
        block: String,
        /// The sample's index.
        sample: usize,
        /// The squared norm, in the type that is computed in.
        square: f64,
    },
    /// The numbers allow no scores.
    #[error("the scores cannot be computed")]
    Score(#[source] ScoreError),
    /// A score beyond the range of `f32`.
    #[error("the score of training sample {sample} for query {query} is {value:e}: expected at most {:e}", f32::MAX)]
    Range {
        /// The query's index.
        query: usize,
        /// The training sample's index.
        sample: usize,
        /// The score.
        value: f64,
    },
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
        /// That residual.
        residual: f64,
        /// What it should have been.
        tolerance: f64,
    },
    /// The demo's data are damaged.
    #[error("the demo's data cannot be used")]
    Data(#[from] DataError),
    /// The demo's model cannot be trained.
    #[error("the demo's model cannot be trained")]
    Model(#[from] ModelError),
    /// The demo's gradients cannot be taken.
    #[error("the demo's gradients cannot be taken")]
    Gradients(#[from] GradientError),
    /// A device failed in the demo.
    #[error("the demo's losses cannot be computed")]
    Losses(#[from] CurvatureError),
    /// A figure of the demo does not exist.
    #[error("the methods cannot be compared")]
    Eval(#[from] EvalError),
}

impl CliError {
    /// 2: what was typed is wrong; 3: an input file is; 4: the numbers allow no answer.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Method { .. }
            | Self::Damping { .. }
            | Self::Noise { .. }
            | Self::Device(_)
            | Self::OutputKind { .. }
            | Self::OutputIsInput { .. }
            | Self::Output { .. }
            | Self::Stdout(_) => 2,
            Self::File { .. }
            | Self::Blocks { .. }
            | Self::Sides { .. }
            | Self::NonFinite { .. }
            | Self::TooLarge { .. } => 3,
            Self::Score(_)
            | Self::Range { .. }
            | Self::NotConverged { .. }
            | Self::Data(_)
            | Self::Model(_)
            | Self::Gradients(_)
            | Self::Losses(_)
            | Self::Eval(_) => 4,
        }
    }

    /// What to do about it.
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Method { nearest: Some(name), .. } => {
                format!("did you mean `{name}`? `hyperinf methods` lists all methods")
            }
            Self::Method { nearest: None, .. } => "`hyperinf methods` lists all methods".into(),
            Self::Damping { flag: "--damping", .. } => "0.1 is the usual factor, and the default".into(),
            Self::Damping { .. } => "leave it out for 0.1 × the mean square of each block's gradients".into(),
            Self::Noise { .. } => "0.2 gives every fifth mail the wrong label".into(),
            Self::Output { .. } => "choose a folder that exists and can be written".into(),
            Self::OutputIsInput { .. } => "choose another name".into(),
            Self::File { source, .. } => match source {
                FileError::Type { .. } => "leave out tensors that are not gradients, convert those that are".into(),
                FileError::Rank { .. } => "write one tensor per layer, its first dimension the samples".into(),
                FileError::SampleCount { .. } => "row i of every block must be sample i".into(),
                FileError::Truncated { .. } | FileError::Read { .. } => "write or copy the file again".into(),
                FileError::NoSamples { .. } | FileError::NoBlocks => "check the program that wrote the file".into(),
                _ => return None,
            },
            Self::Blocks { .. } | Self::Sides { .. } => {
                "write both files from the same layers of the same model".into()
            }
            Self::NonFinite { .. } => "leave the sample out, or find out why its loss overflowed".into(),
            Self::TooLarge { .. } => "scale all gradients of both files down by the same factor".into(),
            Self::Score(ScoreError::Curvature(_)) => {
                "give the block two sides, take --structure per-block, or another method".into()
            }
            Self::Score(_) | Self::NotConverged { .. } => "a larger --damping makes the inverse easier".into(),
            Self::Range { .. } => "a larger damping or smaller gradients give smaller scores".into(),
            Self::Device(_)
            | Self::OutputKind { .. }
            | Self::Stdout(_)
            | Self::Data(_)
            | Self::Model(_)
            | Self::Gradients(_)
            | Self::Losses(_)
            | Self::Eval(_) => return None,
        })
    }

    /// The message, what caused it, and what to do.
    pub fn report(&self) -> String {
        let mut text = format!("error: {self}");
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(&format!("\n  because: {error}"));
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            text.push_str(&format!("\n  hint: {hint}"));
        }
        text
    }
}

fn differences(train: &PathBuf, only_train: &[String], query: &PathBuf, only_query: &[String]) -> String {
    let side = |here: &PathBuf, names: &[String], other: &PathBuf| {
        let listed: Vec<String> = names.iter().take(LISTED).map(|n| format!("`{n}`")).collect();
        let more = if names.len() > LISTED { format!(" and {} more", names.len() - LISTED) } else { String::new() };
        format!("{}{more} in `{}` but not in `{}`", listed.join(", "), here.display(), other.display())
    };
    let mut parts = Vec::new();
    if !only_train.is_empty() {
        parts.push(side(train, only_train, query));
    }
    if !only_query.is_empty() {
        parts.push(side(query, only_query, train));
    }
    parts.join("; ")
}
