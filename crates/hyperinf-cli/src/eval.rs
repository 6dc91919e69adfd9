//! `hyperinf eval`: scores held against ground truths on a small task that is built in.

mod brittleness;
mod candidate;
mod lds;
mod loo;
mod mislabel;
mod pbrf;
mod report;
mod selection;
mod setup;

use crate::args::{EvalArgs, EvalCommand};
use crate::error::CliError;

/// Computes the truth, scores with every method, and tells how well they agree.
///
/// # Errors
///
/// See [`CliError`]. Results of trainings are kept in the bank whatever happens; other output is whole or not there.
pub fn run(args: &EvalArgs) -> Result<(), CliError> {
    match &args.truth {
        EvalCommand::Lds(args) => lds::run(args),
        EvalCommand::Loo(args) => loo::run(args),
        EvalCommand::Mislabel(args) => mislabel::run(args),
        EvalCommand::Pbrf(args) => pbrf::run(args),
        EvalCommand::Brittleness(args) => brittleness::run(args),
        EvalCommand::Selection(args) => selection::run(args),
    }
}
