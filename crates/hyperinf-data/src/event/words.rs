//! Notices in words.

use std::fmt;

use hyperinf_store::{Restart, Resumption};

use super::{LISTED, Notice, Purpose};
use crate::quality::Verdict;
use crate::{CrossCheck, listed};

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
            Self::Tracing { states, passes, batches } => write!(
                f,
                "{states} recorded states: {passes} forward and backward passes over the training rows, in {batches} \
                 batches each"
            ),
            Self::Refining { steps, queries, rows, passes: [forward, backward], batches } => {
                let of = if *queries == 1 { "one query".to_owned() } else { format!("{queries} queries") };
                write!(
                    f,
                    "{steps} steps of refinement for {of}: {forward} forward and {backward} backward passes over \
                     batches, {batches} of which are the {rows} training rows"
                )
            }
            Self::Kept { methods, of, folder } => {
                write!(
                    f,
                    "the scores of {methods} of {of} methods are those of an earlier run, in {}",
                    folder.display()
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
