mod words;

use std::fmt;
use std::path::{Path, PathBuf};

use hyperinf_models::TokenizerNotice;
use hyperinf_store::{Factors, Resumption};

use crate::plan::Shortage;
use crate::quality::{ClassQuality, Quality, Verdict};
use crate::stage::Stage;
use crate::{BadRow, CrossCheck};

/// Bad rows that are listed in one notice; of more only the number is given.
const LISTED: usize = 5;

/// A report of a run while it works: its progress, or a notice.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The progress of a stage.
    Progress(Progress),
    /// What the user should know about the input or the result.
    Notice(Notice),
}

/// The progress of one stage of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// Samples, backward passes or steps that are done.
    pub done: usize,
    /// All of them.
    pub total: usize,
    /// More about it.
    pub detail: Detail,
}

/// More about a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Detail {
    /// So many of these per second.
    Speed(f64, &'static str),
    /// The stage counts backward passes.
    BackwardPasses,
    /// The stage counts batches of products.
    Products,
    /// The stage counts passes over the training rows.
    Passes,
    /// The state of a training.
    Training {
        /// A running mean of the training loss.
        loss: f64,
        /// The validation loss, after steps that measure it.
        validation: Option<f64>,
        /// So many of `unit` per second.
        speed: f64,
        /// What is counted.
        unit: &'static str,
    },
}

/// A warning or remark that the results of a run do not show.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Notice {
    /// Rows that cannot be used were left out.
    LeftOut {
        /// The data set.
        path: PathBuf,
        /// The rows.
        bad: Vec<BadRow>,
        /// All rows of the data set.
        total: usize,
    },
    /// Rows were cut to the maximum length.
    Cut {
        /// The data set.
        path: PathBuf,
        /// Their number.
        rows: usize,
        /// The first of them.
        first: usize,
    },
    /// The model's own head has other labels than the data and is replaced.
    NewHead {
        /// The labels of the data.
        data: Vec<String>,
        /// The labels of the head.
        model: Vec<String>,
    },
    /// Columns that are not read, although the conversations or their template have a use for them.
    UnreadColumns {
        /// The data set.
        path: PathBuf,
        /// The columns.
        columns: Vec<String>,
    },
    /// A column that is given to a chat template that does not read it.
    IdleColumn {
        /// The data set.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// How the tokenizer's files were read.
    Tokenizer(TokenizerNotice),
    /// No side of any block is longer than the projection's rank.
    IdleProjection {
        /// The rank.
        rank: usize,
    },
    /// Gradients of an earlier run in the folder, and whether they are used.
    Earlier {
        /// The stage that they belong to.
        stage: Stage,
        /// What was found.
        found: Resumption,
        /// All rows.
        total: usize,
    },
    /// Finished leaves of an index whose files are gone or have another length; they are computed again.
    LostLeaves {
        /// The index.
        path: PathBuf,
        /// The leaves.
        leaves: Vec<usize>,
    },
    /// What an index keeps of a method.
    Factors(Factors),
    /// A checkpoint that cannot be used; it is set aside.
    DamagedCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Training resumes from a checkpoint.
    ResumedTraining {
        /// Steps taken before.
        step: usize,
        /// The checkpoint.
        path: PathBuf,
    },
    /// The log of a training that resumes lacks steps before the checkpoint.
    LostLog {
        /// Steps whose lines are missing or damaged.
        steps: usize,
        /// The log.
        path: PathBuf,
    },
    /// A run was to resume, but there is nothing to resume from.
    NoCheckpoint {
        /// The folder without checkpoints.
        folder: PathBuf,
    },
    /// A run was to resume that has ended already: its adapter is there.
    AlreadyTrained {
        /// The adapter's folder.
        folder: PathBuf,
    },
    /// A training is recorded.
    Recording {
        /// The file that will be written.
        path: PathBuf,
        /// The states in it.
        states: usize,
        /// Its bytes.
        bytes: u64,
    },
    /// A training is followed backwards.
    Unrolling {
        /// The steps of the training.
        steps: usize,
        /// The derivatives that are taken: one, or one for each query.
        directions: usize,
        /// The forward and backward passes over batches.
        passes: usize,
        /// The bytes that the steps between two recorded states take in memory.
        bytes: u64,
    },
    /// The recorded states of a training are followed.
    Tracing {
        /// The states.
        states: usize,
        /// The passes over the training rows.
        passes: usize,
        /// The batches of a pass.
        batches: usize,
    },
    /// A method's inverse is refined.
    Refining {
        /// The steps.
        steps: usize,
        /// The queries.
        queries: usize,
        /// The training rows of the matrix.
        rows: usize,
        /// The forward and the backward passes over batches.
        passes: [usize; 2],
        /// The batches of the rows.
        batches: usize,
    },
    /// The scores of some methods are those of an earlier run.
    Kept {
        /// How many methods.
        methods: usize,
        /// Of so many.
        of: usize,
        /// The folder.
        folder: PathBuf,
    },
    /// The run needs more than there is.
    Shortage(Shortage),
    /// A classifier predicts the labels of rows no better than a guess, or hardly better.
    NotLearned {
        /// The data set.
        path: PathBuf,
        /// Its figures.
        quality: ClassQuality,
        /// How bad they are.
        verdict: Verdict,
        /// What the model was run for.
        purpose: Purpose,
    },
    /// The training loss is the better detector of wrong labels, by a cross-check on the validation rows.
    LossFindsMore {
        /// The validation rows.
        path: PathBuf,
        /// The check.
        check: CrossCheck,
    },
    /// Training did not lower the loss of a model that could be good before.
    NoGain {
        /// The data set.
        path: PathBuf,
        /// Its figures before the training.
        before: Quality,
        /// Its figures after the training.
        after: Quality,
    },
}

/// What a model is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It was trained on the rows.
    Training,
    /// It was trained on other rows, from which it has learned.
    Validation,
    /// Its predictions are evaluated.
    Evaluation,
    /// Training rows are scored by its gradients.
    Scores,
}

/// Warns of a classifier that has not learned.
pub(crate) fn warn_of(quality: &Quality, path: &Path, purpose: Purpose, observe: &mut dyn FnMut(Event)) {
    let Quality::Classes(quality) = quality else { return };
    let warn = match quality.verdict {
        None | Some(Verdict::Learned) => None,
        // A model that is sure and sometimes wrong has a high loss on rows that it has not seen.
        Some(Verdict::Hardly) if purpose == Purpose::Validation => None,
        Some(verdict) => Some(verdict),
    };
    if let Some(verdict) = warn {
        let (path, quality) = (path.to_owned(), quality.clone());
        observe(Event::Notice(Notice::NotLearned { path, quality, verdict, purpose }));
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Progress(progress) => progress.fmt(f),
            Self::Notice(notice) => notice.fmt(f),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {}, {}", self.stage.name(), self.done, self.total, self.detail)
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Speed(speed, unit) => write!(f, "{speed:.0} {unit}/s"),
            Self::BackwardPasses => f.write_str("backward passes"),
            Self::Products => f.write_str("batches of products"),
            Self::Passes => f.write_str("passes over the training rows"),
            Self::Training { loss, validation, speed, unit } => {
                write!(f, "loss {loss:.3}")?;
                if let Some(validation) = validation {
                    write!(f, ", validation {validation:.3}")?;
                }
                write!(f, ", {speed:.0} {unit}/s")
            }
        }
    }
}
