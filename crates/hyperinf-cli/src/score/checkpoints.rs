//! Scores summed over moments of a training: TracIn.

use std::path::Path;

use hyperinf::scoring::{Attribution, Options, Set};
use serde::Serialize;

use super::check_converged;
use super::pair::Pair;
use super::projection::Projecting;
use super::settings::Settings;
use super::stream;
use super::summary::{Input, input};
use crate::args::VariantArgs;
use crate::error::CliError;

/// The gradients of one moment.
pub(super) struct Checkpoint {
    pub(super) pair: Pair,
    /// The learning rate with which the training went on, if there are several moments.
    rate: Option<f64>,
}

/// Where the gradients of one moment lay.
#[derive(Serialize)]
pub(super) struct CheckpointSummary {
    learning_rate: f64,
    train_gradients: Input,
    query_gradients: Input,
}

/// A moment as typed: the two files and the rate.
pub(super) type Typed<'a> = (&'a Path, &'a Path, f64);

/// The moments beside the first.
///
/// # Errors
///
/// If a learning rate is not positive and finite, or there are other gradients that each moment would need.
pub(super) fn typed<'a>(args: &'a VariantArgs) -> Result<Vec<Typed<'a>>, CliError> {
    let other = [
        ("--curvature-gradients", args.curvature_gradients.is_some()),
        ("--contrast-gradients", args.contrast_gradients.is_some()),
    ];
    if let Some((second, _)) = other.into_iter().find(|(_, given)| *given && !args.checkpoint.is_empty()) {
        let reason = "they would be those of one moment only";
        return Err(CliError::Combination { first: "--checkpoint".into(), second, reason });
    }
    let positive = |flag, value: f64| {
        let expected = "positive and finite";
        if value > 0.0 && value.is_finite() { Ok(value) } else { Err(CliError::Value { flag, expected, value }) }
    };
    args.learning_rate.map(|rate| positive("--learning-rate", rate)).transpose()?;
    let one = |three: &'a [String]| {
        // What is no number is none that is positive.
        let rate = positive("the RATE of --checkpoint", three[2].parse().unwrap_or(f64::NAN))?;
        Ok((Path::new(&three[0]), Path::new(&three[1]), rate))
    };
    args.checkpoint.chunks_exact(3).map(one).collect()
}

/// The first moment and the others, which have its samples and queries.
pub(super) fn open(first: Pair, others: &[Typed<'_>], rate: Option<f64>) -> Result<Vec<Checkpoint>, CliError> {
    let mut all = vec![Checkpoint { pair: first, rate }];
    for &(train, query, rate) in others {
        let pair = Pair::open(train, query)?;
        for set in [Set::Train, Set::Query] {
            let (found, expected) = (pair.file(set).samples(), all[0].pair.file(set).samples());
            if found != expected {
                return Err(CliError::Checkpoint { set, path: pair.file(set).path().to_owned(), found, expected });
            }
        }
        all.push(Checkpoint { pair, rate: Some(rate) });
    }
    Ok(all)
}

/// The sum of the moments' scores, each times its rate; reports of all blocks of all moments in their order.
pub(super) fn attribute(
    all: &mut [Checkpoint],
    projection: Option<Projecting>,
    (settings, options): (&Settings, &Options),
    strict: bool,
) -> Result<Attribution, CliError> {
    let mut total: Option<Attribution> = None;
    for Checkpoint { pair, rate } in all {
        pair.project(projection, &settings.device)?;
        let mut found = stream::attribute(pair, options, &settings.device)?;
        if strict {
            check_converged(&found)?;
        }
        if let Some(rate) = rate {
            found.scores.rows.iter_mut().flatten().for_each(|score| *score *= *rate);
        }
        match &mut total {
            None => total = Some(found),
            Some(total) => {
                let scores = total.scores.rows.iter_mut().flatten();
                scores.zip(found.scores.rows.iter().flatten()).for_each(|(sum, more)| *sum += more);
                total.blocks.extend(found.blocks);
            }
        }
    }
    Ok(total.expect("there is a first"))
}

/// What is told of them, if there are several.
pub(super) fn summaries(all: &[Checkpoint]) -> Result<Option<Vec<CheckpointSummary>>, CliError> {
    let one = |Checkpoint { pair, rate }: &Checkpoint| -> Result<Option<CheckpointSummary>, CliError> {
        let Some(learning_rate) = *rate else { return Ok(None) };
        let (train_gradients, query_gradients) = (input(pair, Set::Train)?, input(pair, Set::Query)?);
        Ok(Some(CheckpointSummary { learning_rate, train_gradients, query_gradients }))
    };
    let told = all.iter().map(one).collect::<Result<Option<Vec<_>>, _>>()?;
    Ok(told.filter(|told| told.len() > 1))
}
