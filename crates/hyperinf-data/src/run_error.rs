use std::fmt;
use std::path::{Path, PathBuf};

use hyperinf_gradients::GradientError;
use hyperinf_linalg::ReadError;
use hyperinf_models::{GenerateError, LoadError, ModelError, ModelKind};
use hyperinf_scoring::{ScoreError, Set, TeamError};
use hyperinf_store::{IndexError, StoreError};

use crate::dataset::Dataset;
use crate::stage::Stage;
use crate::{BankError, Choice, DataError, listed};

/// Why a run from rows to scores, or to an adapter, ended without a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A data set cannot be used.
    #[error("the {set} data in `{path}` cannot be used")]
    Dataset {
        /// The input.
        set: Set,
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<DataError>,
    },
    /// A model, an adapter or a tokenizer cannot be loaded.
    #[error("the {what} `{path}` cannot be used")]
    Load {
        /// The kind of file.
        what: &'static str,
        /// The path or name given.
        path: String,
        /// Why.
        source: Box<LoadError>,
    },
    /// A model whose file has no tokenizer in it.
    #[error("the model `{model}` has no tokenizer in its file")]
    NoTokenizer {
        /// The model as given.
        model: String,
    },
    /// Choices of a diffusion model's loss, for another model.
    #[error("`{model}` is not a diffusion model: it has no timesteps, noise, min-SNR weights or prompt dropout")]
    NotDiffusion {
        /// The model as given.
        model: String,
    },
    /// Pairs of answers, for another model than a language model.
    #[error("`{model}` is not a language model, and takes no pairs of answers")]
    NotLanguageModel {
        /// The model as given.
        model: String,
    },
    /// No kind of model takes this architecture.
    #[error("the model `{model}` is of the kind {kind:?}, which takes no rows")]
    NoKind {
        /// The model as given.
        model: String,
        /// Its architecture.
        kind: ModelKind,
    },
    /// There is no kind of model of this name.
    #[error("there is no task `{task}`; known are {}", listed(.known))]
    Task {
        /// The name.
        task: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// The tokenizer lacks the token of images.
    #[error("the model's image token is {token}, but the tokenizer has {vocabulary} tokens")]
    ImageToken {
        /// The token.
        token: u32,
        /// The tokens.
        vocabulary: usize,
    },
    /// Images of one tile were asked for, but the model makes no tiles.
    #[error("the model `{model}` makes no tiles of images, so their number cannot be chosen")]
    NoTiles {
        /// The model.
        model: String,
    },
    /// Images or their features were named, but the model takes none.
    #[error(
        "the model `{model}` takes no images: their column, their folder and that of their features have no meaning"
    )]
    NoImages {
        /// The model.
        model: String,
    },
    /// The model has no adapter, and so no parameters whose gradients are scored.
    #[error("the model `{model}` has no adapters, whose gradients are what is scored")]
    NoAdapter {
        /// The model as given.
        model: String,
    },
    /// The adapter's training was not recorded.
    #[error("the folder `{folder}` has no recording of the training, which this method follows")]
    NoRecording {
        /// The adapter's folder.
        folder: PathBuf,
    },
    /// A further adapter of an ensemble tells other classes apart.
    #[error("the adapter `{}` has the labels {}, and the first one {}", adapter.display(), listed(found), listed(expected))]
    OtherLabels {
        /// The folder.
        adapter: PathBuf,
        /// The labels of the first adapter, sorted.
        expected: Vec<String>,
        /// Those of this one.
        found: Vec<String>,
    },
    /// No block matches the pattern.
    #[error("no block matches `{pattern}`; the model has {}", listed(.known))]
    NoBlock {
        /// The pattern.
        pattern: String,
        /// The names of the blocks.
        known: Vec<String>,
    },
    /// The maximum length is more than the model accepts.
    #[error("a maximum length of {asked} is more than the {positions} tokens that the model accepts")]
    MaxLength {
        /// The tokens asked for.
        asked: usize,
        /// The tokens that the model accepts.
        positions: usize,
    },
    /// No rows, or more than there are.
    #[error("{asked} rows of {rows} were asked for")]
    Amount {
        /// The rows asked for.
        asked: usize,
        /// The rows that can be used.
        rows: usize,
    },
    /// A choice of a selection is out of range.
    #[error("{what} must be {expected}, not {value}")]
    Selection {
        /// The choice.
        what: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value given.
        value: f64,
    },
    /// A kind of model without hidden states of tokens.
    #[error("models of the kind `{kind}` have no hidden states of tokens")]
    NoStates {
        /// The kind.
        kind: &'static str,
    },
    /// Rows without labels, and no column of groups.
    #[error("the rows of `{path}` have no labels, and no column of groups was named")]
    NoGroups {
        /// The file.
        path: PathBuf,
    },
    /// Too few or too many seeds for error bars.
    #[error("error bars take 2 to {most} seeds, not {count}")]
    Seeds {
        /// The number given.
        count: usize,
        /// The largest number.
        most: usize,
    },
    /// Two choices that contradict each other.
    #[error("{first} and {second} do not go together: {reason}")]
    Conflict {
        /// The one.
        first: Choice,
        /// The other.
        second: Choice,
        /// Why.
        reason: &'static str,
    },
    /// The loss or gradient of a row is NaN or infinite.
    #[error("the {what} of row {row} of the {set} data in `{path}` is {value}, expected a finite number")]
    NotFinite {
        /// The input.
        set: Set,
        /// The file.
        path: PathBuf,
        /// The row's number in it.
        row: usize,
        /// The loss, or the gradient in a block.
        what: String,
        /// The value.
        value: f64,
    },
    /// The folder for the adapter has an adapter or checkpoints already.
    #[error("the folder `{path}` has {what} already")]
    Exists {
        /// The folder.
        path: PathBuf,
        /// What the folder contains.
        what: Existing,
    },
    /// A file was written, replaced or moved while the run read it.
    #[error("`{path}` was changed while it was read")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The run was stopped by [`Stop`](crate::Stop); what is finished is kept.
    #[error("stopped after {done} of {total} {}", .stage.unit())]
    Stopped {
        /// The stage.
        stage: Stage,
        /// Finished rows or steps.
        done: usize,
        /// All of them.
        total: usize,
        /// The folder or the checkpoint from which the same run resumes; none if there is nothing to resume from.
        kept: Option<PathBuf>,
    },
    /// The model cannot be trained or run.
    #[error("{}", .0.what())]
    Model(#[from] ModelError),
    /// No picture could be drawn.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// Gradients could not be computed.
    #[error("the gradients cannot be computed")]
    Gradients(#[from] GradientError),
    /// The device failed to return losses.
    #[error("the losses cannot be computed")]
    Losses(#[from] ReadError),
    /// The gradients allow no scores.
    #[error("the scores cannot be computed")]
    Score(#[from] ScoreError),
    /// An index cannot be used or written.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A part that there is not.
    #[error("there is no part {part} of {of}: parts are numbered from 1 to their number")]
    Part {
        /// The part.
        part: usize,
        /// The number of parts.
        of: usize,
    },
    /// A bank of trainings cannot be used.
    #[error(transparent)]
    Bank(#[from] BankError),
    /// The ranks of a crew could not work together.
    #[error(transparent)]
    Team(#[from] TeamError),
    /// The method cannot be computed from stored gradients alone.
    #[error("an index cannot be asked with this method: {reason}")]
    NotFromIndex {
        /// Why.
        reason: &'static str,
    },
    /// A file of gradients cannot be read, or a result cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Contents of a folder that must not be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// An adapter.
    Adapter,
    /// Checkpoints of an interrupted run.
    Checkpoints,
}

impl RunError {
    /// Names the data set in an error of its rows.
    pub(crate) fn of_rows(set: Set, path: &Path) -> impl FnOnce(DataError) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Dataset { set, path, source: Box::new(source) }
    }

    /// Whether it is about the rows of a data set: other rows may be used.
    pub fn is_of_rows(&self) -> bool {
        matches!(self, Self::Dataset { .. } | Self::NotFinite { .. })
    }

    /// Names a data set in an error of its rows.
    pub(crate) fn data<C>(data: &Dataset<C>) -> impl FnOnce(DataError) -> Self + use<C> {
        let (set, path) = (data.set, data.path.clone());
        move |source| Self::Dataset { set, path, source: Box::new(source) }
    }
}

impl fmt::Display for Existing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adapter => "an adapter",
            Self::Checkpoints => "checkpoints of an earlier run",
        })
    }
}
