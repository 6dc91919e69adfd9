use std::fmt;
use std::path::PathBuf;

use crate::{BadRow, listed};

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

/// A stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Per-sample gradients of the training rows.
    TrainGradients,
    /// Per-sample gradients of the query rows.
    QueryGradients,
    /// The curvature of the model.
    Curvature,
    /// Fine-tuning.
    Finetuning,
}

/// More about a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Detail {
    /// Tokens per second.
    Speed(f64),
    /// The stage counts backward passes.
    BackwardPasses,
    /// The state of a training.
    Training {
        /// A running mean of the training loss.
        loss: f64,
        /// The validation loss, after steps that measure it.
        validation: Option<f64>,
        /// Tokens per second.
        speed: f64,
    },
}

/// A warning or remark that the results of a run do not show.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// No side of any block is longer than the projection's rank.
    IdleProjection {
        /// The rank.
        rank: usize,
    },
}

impl Stage {
    /// The stage in two words.
    pub fn name(self) -> &'static str {
        match self {
            Self::TrainGradients => "training gradients",
            Self::QueryGradients => "query gradients",
            Self::Curvature => "curvature",
            Self::Finetuning => "fine-tuning",
        }
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
            Self::Speed(speed) => write!(f, "{speed:.0} tokens/s"),
            Self::BackwardPasses => f.write_str("backward passes"),
            Self::Training { loss, validation, speed } => {
                write!(f, "loss {loss:.3}")?;
                if let Some(validation) = validation {
                    write!(f, ", validation {validation:.3}")?;
                }
                write!(f, ", {speed:.0} tokens/s")
            }
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut { path, bad, total } => {
                write!(f, "{} of {total} rows of `{}` are left out:", bad.len(), path.display())?;
                for bad in bad.iter().take(LISTED) {
                    write!(f, "\n  {bad}")?;
                }
                match bad.len().checked_sub(LISTED) {
                    Some(more @ 1..) => write!(f, "\n  and {more} more"),
                    Some(0) | None => Ok(()),
                }
            }
            Self::Cut { path, rows, first } => {
                write!(f, "{rows} rows of `{}` are cut at their end, the first is row {first}", path.display())
            }
            Self::NewHead { data, model } => write!(
                f,
                "the labels of the data ({}) are not those of the model's head ({}): a new head is trained",
                listed(data),
                listed(model)
            ),
            Self::IdleProjection { rank } => {
                write!(f, "the projection to rank {rank} has no effect: no side of any block is longer")
            }
        }
    }
}
