use std::fmt;
use std::path::{Path, PathBuf};

use hyperinf_models::TokenizerNotice;
use hyperinf_store::{Factors, Restart, Resumption};

use crate::plan::Shortage;
use crate::quality::{ClassQuality, Quality, Verdict};
use crate::stage::Stage;
use crate::{BadRow, CrossCheck, listed};

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

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut { path, bad, total } => {
                write!(f, "{} of {total} rows of `{}` are left out:", bad.len(), path.display())?;
                for bad in bad.iter().take(LISTED) {
                    write!(f, "\n  {bad}")?;
                }
                let more = bad.len().saturating_sub(LISTED);
                if more > 0 { write!(f, "\n  and {more} more") } else { Ok(()) }
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
            Self::UnreadColumns { path, columns } => write!(
                f,
                "columns of `{}` that a conversation could use are not read: {}; variables for the chat template go into a column `chat_template_kwargs`",
                path.display(),
                listed(columns)
            ),
            Self::IdleColumn { path, column } => {
                write!(f, "column `{column}` of `{}` has no effect: the chat template does not read it", path.display())
            }
            Self::Tokenizer(notice) => notice.fmt(f),
            Self::IdleProjection { rank } => {
                write!(f, "the projection to rank {rank} has no effect: no side of any block is longer")
            }
            Self::Earlier { stage, found, total } => earlier(f, stage.name(), found, *total),
            Self::LostLeaves { path, leaves } => write!(
                f,
                "{} finished leaves of the index `{}` are gone or have another length, and are computed again; the first \
                 is leaf {}",
                leaves.len(),
                path.display(),
                leaves.first().copied().unwrap_or_default()
            ),
            Self::Factors(factors) => factors.fmt(f),
            Self::DamagedCheckpoint { path, reason } => {
                write!(f, "the checkpoint `{}` is damaged and set aside: {reason}", path.display())
            }
            Self::ResumedTraining { step, path } => {
                write!(f, "training resumes after step {step}, from `{}`", path.display())
            }
            Self::LostLog { steps, path } => {
                write!(f, "`{}` will lack {steps} earlier steps: their lines are damaged or missing", path.display())
            }
            Self::NoCheckpoint { folder } => {
                write!(f, "there is no checkpoint in `{}` to resume from: training starts at step 0", folder.display())
            }
            Self::AlreadyTrained { folder } => {
                write!(f, "this training has ended already: its adapter in `{}` stays as it is", folder.display())
            }
            Self::Recording { path, states, bytes } => {
                let megabytes = *bytes as f64 / 1e6;
                write!(f, "the training is recorded: {states} states, {megabytes:.1} MB in `{}`", path.display())
            }
            Self::Unrolling { steps, directions, passes, bytes } => {
                let megabytes = *bytes as f64 / 1e6;
                let of = if *directions == 1 { "one derivative" } else { "derivatives" };
                let count = if *directions == 1 { String::new() } else { format!("{directions} ") };
                write!(
                    f,
                    "{count}{of} through {steps} steps: {passes} forward and backward passes over batches, where the \
                     training took {steps}, and {megabytes:.1} MB for steps that are held"
                )
            }
            Self::Shortage(shortage) => shortage.fmt(f),
            Self::NotLearned { path, quality, verdict, purpose } => {
                let guess = match verdict {
                    Verdict::Guessing => "is no better than guessing",
                    Verdict::Hardly | Verdict::Learned => "has hardly learned: its loss is that of guessing",
                };
                let (rows, path) = (quality.rows, path.display());
                write!(f, "the model {guess} on {rows} rows of `{path}`: {quality}")?;
                f.write_str(match purpose {
                    Purpose::Training => {
                        "; try more epochs, a higher learning rate or smaller batches, and check that the labels \
                         belong to the texts"
                    }
                    Purpose::Validation => {
                        "; what it has learned from the training rows does not carry over: check the labels of both"
                    }
                    Purpose::Evaluation => "",
                    Purpose::Scores => "; scores by the gradients of such a model say little: train it better first",
                })
            }
            Self::LossFindsMore { path, check: CrossCheck { rows, auc_score, auc_loss, .. } } => write!(
                f,
                "the loss is the better detector here: with the labels of the {rows} rows of `{}` exchanged, high \
                 losses find the wrong ones with an AUC of {auc_loss:.3}, low scores with {auc_score:.3}; look at the \
                 rows with the highest training loss as well",
                path.display()
            ),
            Self::NoGain { path, before, after } => write!(
                f,
                "training did not lower the loss on {} rows of `{}`: {before} before, {after} after; try another \
                 learning rate or more epochs",
                after.rows(),
                path.display()
            ),
        }
    }
}

/// What an earlier run left, line by line.
fn earlier(f: &mut fmt::Formatter<'_>, what: &str, found: &Resumption, total: usize) -> fmt::Result {
    let Resumption { samples, damaged, header, restarted } = found;
    let mut lines = Vec::new();
    match restarted {
        Some(Restart::Differs(differences)) => {
            let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
            lines.push(format!("{what} of an earlier run are not used: {}", differences.join("; ")));
        }
        Some(Restart::Damaged) => {
            lines.push(format!("{what} of an earlier run are not used: their journal is damaged"))
        }
        None if *samples > 0 => lines.push(format!("{what}: {samples} of {total} rows are there from an earlier run")),
        None => {}
    }
    if *header {
        lines.push(format!("{what}: the header of the earlier run's file was damaged and is written again"));
    }
    if *damaged > 0 {
        lines.push(format!("{what}: {damaged} damaged batches of an earlier run are computed again"));
    }
    f.write_str(&lines.join("\n"))
}
