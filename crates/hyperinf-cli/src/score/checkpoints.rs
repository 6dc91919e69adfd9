//! The flags and the summary of TracIn's checkpoints.

use std::path::Path;

use hyperinf::scoring::Set;
use hyperinf::store::{Checkpoint, GradientPair};
use serde::Serialize;

use super::summary::{Input, input};
use crate::args::VariantArgs;
use crate::error::{CliError, Usage};

/// The gradients of one checkpoint, for a summary.
#[derive(Serialize)]
pub(super) struct CheckpointSummary {
    learning_rate: f64,
    train_gradients: Input,
    query_gradients: Input,
}

/// A `--checkpoint`: the two files and the learning rate.
pub(super) type Typed<'a> = (&'a Path, &'a Path, f64);

/// The checkpoints after the first.
///
/// # Errors
///
/// If a learning rate is not positive and finite, or there are other gradients that each checkpoint would need.
pub(super) fn typed<'a>(args: &'a VariantArgs) -> Result<Vec<Typed<'a>>, CliError> {
    let other = [
        ("--curvature-gradients", args.curvature_gradients.is_some()),
        ("--contrast-gradients", args.contrast_gradients.is_some()),
    ];
    if let Some((second, _)) = other.into_iter().find(|(_, given)| *given && !args.checkpoint.is_empty()) {
        let reason = "they would be those of one moment only";
        return Err(Usage::Combination { first: "--checkpoint".into(), second, reason }.into());
    }
    let positive = |flag, value: f64| -> Result<f64, CliError> {
        let expected = "positive and finite";
        if value > 0.0 && value.is_finite() { Ok(value) } else { Err(Usage::Value { flag, expected, value }.into()) }
    };
    args.learning_rate.map(|rate| positive("--learning-rate", rate)).transpose()?;
    let one = |three: &'a [String]| {
        // A value that does not parse is rejected as not positive.
        let rate = positive("the RATE of --checkpoint", three[2].parse().unwrap_or(f64::NAN))?;
        Ok((Path::new(&three[0]), Path::new(&three[1]), rate))
    };
    args.checkpoint.chunks_exact(3).map(one).collect()
}

/// Opens the checkpoints after the first.
pub(super) fn open(first: GradientPair, others: &[Typed<'_>], rate: Option<f64>) -> Result<Vec<Checkpoint>, CliError> {
    let mut all = vec![Checkpoint { pair: first, rate }];
    for &(train, query, rate) in others {
        let next = Checkpoint::open(&all[0].pair, train, query, rate)?;
        all.push(next);
    }
    Ok(all)
}

/// The summaries of all checkpoints, if there are several.
pub(super) fn summaries(all: &[Checkpoint]) -> Result<Option<Vec<CheckpointSummary>>, CliError> {
    let one = |Checkpoint { pair, rate }: &Checkpoint| -> Result<Option<CheckpointSummary>, CliError> {
        let Some(learning_rate) = *rate else { return Ok(None) };
        let (train_gradients, query_gradients) = (input(pair, Set::Train)?, input(pair, Set::Query)?);
        Ok(Some(CheckpointSummary { learning_rate, train_gradients, query_gradients }))
    };
    let summaries = all.iter().map(one).collect::<Result<Option<Vec<_>>, _>>()?;
    Ok(summaries.filter(|summaries| summaries.len() > 1))
}
