//! The program `hyperinf`: training-data attribution from the command line.
//!
//! | module | what it holds |
//! |---|---|
//! | [`args`] | what can be typed |
//! | [`score`] | `hyperinf score`: from such files to scores |
//! | [`finetune`] | `hyperinf finetune`: an adapter from rows of text |
//! | [`attribute`] | `hyperinf attribute`: scores of training rows for query rows |
//! | [`detect`] | `hyperinf detect`: training rows that look wrong |
//! | [`select`] | `hyperinf select`: the training rows that help most |
//! | [`compare`] | `hyperinf compare`: every method on the same gradients |
//! | [`sweep`] | `hyperinf sweep`: scores at many dampings, and which to take |
//! | [`converge`] | `hyperinf converge`: how fast solvers approach the inverse |
//! | [`figure`] | pictures of results |
//! | [`eval`] | `hyperinf eval`: methods held against retraining |
//! | [`methods`] | `hyperinf methods` |
//! | [`demo`] | `hyperinf demo` |
//! | [`error`] | what can go wrong, with its exit code |
//!
//! Numbers are computed by the library crates; here they are read, written and told.

mod agreement;
pub mod args;
pub mod attribute;
pub mod compare;
pub mod converge;
pub mod demo;
pub mod detect;
mod device;
pub mod error;
pub mod eval;
pub mod figure;
pub mod finetune;
mod influence;
pub mod methods;
mod progress;
pub mod score;
pub mod select;
pub mod sweep;
mod text;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use error::CliError;

/// Runs the program with these arguments, the program's name first, and returns its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version arrive here too. Nobody reading them is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match &cli.command {
        Command::Score(args) => score::run(args),
        Command::Finetune(args) => finetune::run(args),
        Command::Attribute(args) => attribute::run(args),
        Command::Detect(args) => detect::run(args),
        Command::Select(args) => select::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Converge(args) => converge::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Methods(args) => methods::run(args),
        Command::Demo(args) => demo::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without standard error there is nobody left to tell.
            let _ = writeln!(io::stderr(), "{}", error.report());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Writes to standard output. A reader that has gone away, as after `| head`, has what it wanted.
pub(crate) fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CliError> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Stdout(error)),
        _ => Ok(()),
    }
}
