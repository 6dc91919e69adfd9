use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use arrow_schema::ArrowError;
use hyperinf_scoring::{ScoreError, Set};
use parquet::errors::ParquetError;
use safetensors::SafeTensorError;

use crate::no_room::{is_full, with_room};
use crate::offers::offered;
use crate::{BadValue, FileError, Offer, SCORE_FORMATS, ScoresFault};

/// Names listed in one message at most.
const LISTED: usize = 5;

/// Why gradients cannot be scored from their files, or a result cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file of gradients cannot be used.
    #[error("the {set} gradients in `{path}` cannot be used")]
    File {
        /// The input.
        set: Set,
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// The two files have blocks of different names.
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
    /// A block has different sides in the two files.
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
    /// A checkpoint has other samples than the first one.
    #[error("the {set} gradients of a checkpoint in `{path}` are of {found} samples, those of the first of {expected}")]
    Checkpoint {
        /// The set of gradients.
        set: Set,
        /// The file.
        path: PathBuf,
        /// Samples in it.
        found: usize,
        /// Samples of the first.
        expected: usize,
    },
    /// NaN or infinity in a file of gradients.
    #[error(
        "the {set} gradients in `{path}` have the value {} in block `{}`, sample {sample}, at {:?}; expected finite numbers",
        .bad.value, .bad.block, .bad.index
    )]
    NonFinite {
        /// The input.
        set: Set,
        /// The file.
        path: PathBuf,
        /// The sample's index.
        sample: usize,
        /// The value and its place.
        bad: BadValue,
    },
    /// Gradients so large that their squares overflow.
    #[error(
        "the {set} gradients in `{path}` are too large in block `{block}`, sample {sample}: their squared norm is {square}; expected a finite one"
    )]
    TooLarge {
        /// The input.
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
    /// The gradients allow no scores.
    #[error("the scores cannot be computed")]
    Score(#[source] ScoreError),
    /// The scoring would take more memory than there is.
    #[error(
        "block `{block}` of {rows} × {cols} with {samples} samples needs about {needed_gib:.3} GiB of memory, and {available_gib:.3} GiB are available; {}",
        offered(.offers)
    )]
    Memory {
        /// The block that needs most, or all merged.
        block: String,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// The samples that its curvature is computed from.
        samples: usize,
        /// The memory needed, in GiB.
        needed_gib: f64,
        /// The memory available.
        available_gib: f64,
        /// What fits.
        offers: Vec<Offer>,
    },
    /// The scoring would need a matrix that is never formed.
    #[error(
        "block `{block}` needs a matrix of {side} × {side}, {gib:.0} GiB in f64, of at most {most} rows; {}",
        offered(.offers)
    )]
    Matrix {
        /// The block, or all merged.
        block: String,
        /// The matrix's rows.
        side: usize,
        /// Its size in f64, in GiB.
        gib: f64,
        /// The most rows.
        most: usize,
        /// What fits.
        offers: Vec<Offer>,
    },
    /// Scores that are all too small for `f32`.
    #[error(
        "the scores of query {query} are at most {largest:.1e}: expected at least {least:.0e}, the smallest that f32 holds"
    )]
    TooSmall {
        /// The query's index.
        query: usize,
        /// The largest score.
        largest: f64,
        /// The smallest that is accepted.
        least: f64,
    },
    /// A file of scores cannot be read.
    #[error("the scores in `{path}` cannot be used")]
    Scores {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ScoresFault,
    },
    /// A score outside the range of `f32`.
    #[error("the score of training sample {sample} for query {query} is {value:e}: expected at most {:e}", f32::MAX)]
    Range {
        /// The query's index.
        query: usize,
        /// The training sample's index.
        sample: usize,
        /// The score.
        value: f64,
    },
    /// The ending of an output file is not one of the formats.
    #[error("the output `{path}` must end in {}", endings())]
    Format {
        /// The path given.
        path: PathBuf,
    },
    /// The ending of an output file is not one of those of tables.
    #[error("the output `{path}` must end in .csv, .jsonl or .parquet")]
    TableFormat {
        /// The path given.
        path: PathBuf,
    },
    /// The output would overwrite an input.
    #[error("the output `{path}` is also an input")]
    OutputIsInput {
        /// The path given.
        path: PathBuf,
    },
    /// A summary in the folder is another command's, and would be lost.
    #[error("`{path}` is the summary of another command, `{command}`")]
    OtherSummary {
        /// The summary.
        path: PathBuf,
        /// The command.
        command: String,
    },
    /// A file cannot be written.
    #[error("the output `{path}` cannot be written")]
    Output {
        /// The file or its folder.
        path: PathBuf,
        /// Why.
        source: WriteError,
    },
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// There is a folder of that name.
    #[error("it is a folder")]
    Folder,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The Parquet writer refused.
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    /// The CSV writer refused.
    #[error(transparent)]
    Csv(#[from] csv::Error),
    /// The safetensors writer refused.
    #[error(transparent)]
    Safetensors(#[from] SafeTensorError),
    /// The JSON writer refused.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Arrow refused.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// The content of the file could not be produced.
    #[error("{what}")]
    Content {
        /// The failed part, as a sentence.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl WriteError {
    /// Whether there is no room left.
    pub fn is_full(&self) -> bool {
        let full = is_full;
        match self {
            Self::Io(error) | Self::Safetensors(SafeTensorError::IoError(error)) => full(error),
            Self::Arrow(ArrowError::IoError(_, error)) => full(error),
            Self::Parquet(ParquetError::External(error)) => error.downcast_ref().is_some_and(full),
            Self::Csv(error) => matches!(error.kind(), csv::ErrorKind::Io(error) if full(error)),
            Self::Json(error) => {
                matches!(error.io_error_kind(), Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
            }
            Self::Content { source, .. } => source.downcast_ref().is_some_and(full),
            Self::Folder | Self::Safetensors(_) | Self::Arrow(_) | Self::Parquet(_) => false,
        }
    }
}

impl StoreError {
    /// A failure to write `path`.
    pub fn output(path: &Path, source: impl Into<WriteError>) -> Self {
        let source = match source.into() {
            WriteError::Io(error) => WriteError::Io(with_room(error, path, None)),
            other if other.is_full() => {
                let error = io::Error::new(ErrorKind::StorageFull, other);
                WriteError::Io(with_room(error, path, None))
            }
            other => other,
        };
        Self::Output { path: path.to_owned(), source }
    }
}

/// The endings of all formats, as `.a, .b or .c`.
fn endings() -> String {
    let mut endings: Vec<String> = SCORE_FORMATS.iter().map(|format| format!(".{}", format.ending)).collect();
    let last = endings.pop().unwrap_or_default();
    format!("{} or {last}", endings.join(", "))
}

/// The blocks that only one of two files has.
fn differences(train: &Path, only_train: &[String], query: &Path, only_query: &[String]) -> String {
    let side = |here: &Path, names: &[String], other: &Path| {
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
