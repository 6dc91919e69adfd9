//! The program `hyperinf`: training-data attribution from the command line.
//!
//! | module | content |
//! |---|---|
//! | [`args`] | the command line |
//! | [`score`] | `hyperinf score`: from gradient files to scores |
//! | [`finetune`] | `hyperinf finetune`: an adapter from rows of text |
//! | [`evaluate`] | `hyperinf evaluate`: how well a model predicts rows |
//! | [`index`] | `hyperinf index`: the gradients of training rows, computed once |
//! | [`query`] | `hyperinf query`: rows of an index that help and harm a prediction |
//! | [`verify`] | `hyperinf verify`: whether an index is what was written |
//! | [`convert`] | `hyperinf convert`: gradients in another format or type |
//! | [`generate`] | `hyperinf generate`: pictures of a text-to-image model |
//! | [`attribute`] | `hyperinf attribute`: scores of training rows for query rows |
//! | [`detect`] | `hyperinf detect`: training rows that look wrong |
//! | [`select`] | `hyperinf select`: the training rows that help most |
//! | [`report`] | `hyperinf report`: results as a page |
//! | [`compare`] | `hyperinf compare`: every method on the same gradients |
//! | [`sweep`] | `hyperinf sweep`: scores at many dampings, and which to use |
//! | [`converge`] | `hyperinf converge`: how fast solvers approach the inverse |
//! | [`figure`] | figures as output files |
//! | [`grid`] | tables that fit the terminal |
//! | [`eval`] | `hyperinf eval`: methods compared with retraining |
//! | [`check`] | `hyperinf check`: rows as a model gets them |
//! | [`inspect`] | `hyperinf inspect`: the contents of a file of gradients |
//! | [`config`] | `--config` and `--set`: options from a file, and the file that replays a run; `hyperinf schema` |
//! | [`plan`] | `hyperinf plan`: what a command will take |
//! | [`pages`] | `hyperinf completions`, `hyperinf man` |
//! | [`methods`] | `hyperinf methods`: the list of methods |
//! | [`models`] | short names of models |
//! | [`demo`] | `hyperinf demo`: every method on real e-mails |
//! | [`interrupt`] | signals: how an interrupted run ends |
//! | [`team`] | processes and threads that share a command |
//! | [`log`] | events of `tracing` on standard error |
//! | [`error`] | errors with their exit codes |
//! | [`memory`] | memory that is no longer used |
//! | [`terminal`] | text of strangers on a terminal |
//!
//! Numbers are computed by the library crates; the program parses arguments and writes results.

mod agreement;
mod args;
mod attribute;
mod check;
mod compare;
mod config;
mod converge;
mod convert;
mod demo;
mod detect;
mod device;
mod error;
mod eval;
mod evaluate;
mod figure;
mod finetune;
mod generate;
mod grid;
mod index;
mod influence;
mod inspect;
mod interrupt;
mod log;
mod memory;
mod methods;
mod models;
mod pages;
mod plan;
mod progress;
mod query;
mod report;
mod score;
mod select;
mod sweep;
mod team;
mod terminal;
mod text;
mod verify;

use std::io::{self, BufWriter, Write};
use std::panic::{set_hook, take_hook};
use std::process::ExitCode;

use clap::FromArgMatches;
use hyperinf::models::panics_are_errors;

use args::{Cli, Command};
use error::{CliError, Usage};

// Batches of gradients are allocated and freed in a loop. glibc returns every block above 32 MiB to the system, which
// then clears its pages again: ten times slower than keeping them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The most columns of `--help`: longer lines are hard to read.
const WIDEST_HELP: usize = 100;

fn main() -> ExitCode {
    // Before anything is read: a configuration can come from a pipe.
    memory::keep();
    // A panic that becomes an error is reported as one.
    let usual = take_hook();
    set_hook(Box::new(move |info| {
        if !panics_are_errors() {
            usual(info);
        }
    }));
    interrupt::install();
    let width = grid::width().min(WIDEST_HELP);
    let typed: Vec<_> = std::env::args_os().collect();
    let words = match config::expand(typed.clone()) {
        Ok(words) => words,
        Err(error) => return fail(&error),
    };
    let configured = words != typed;
    let matches = args::command(width).try_get_matches_from(words);
    let parsed = matches.and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        config::remember(&matches);
        Ok(cli)
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version arrive here too; a closed pipe is not a failure.
            let _ = error.print();
            if configured && error.use_stderr() {
                terminal::tell("note: options of --config and --set count as flags");
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Err(error) = log::set(&cli.global) {
        return fail(&error);
    }
    let outcome = team::share(&cli.command, || run(&cli.command));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Score(args) => score::run(args),
        Command::Finetune(args) => finetune::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Attribute(args) => attribute::run(args),
        Command::Detect(args) => detect::run(args),
        Command::Select(args) => select::run(args),
        Command::Report(args) => report::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Converge(args) => converge::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Check(args) => check::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Methods(args) => methods::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Schema(args) => config::schema(args),
        Command::Completions(args) => pages::completions(args),
        Command::Man(args) => pages::man(args),
        Command::Index(args) => index::run(args),
        Command::Query(args) => query::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Demo(args) => demo::run(args),
    }
}

/// Reports an error.
fn fail(error: &CliError) -> ExitCode {
    log::set_default();
    tracing::error!("{}", error.report(terminal::message));
    ExitCode::from(code(error))
}

fn code(error: &CliError) -> u8 {
    if error.is_stopped() { interrupt::exit_code() } else { error.exit_code() }
}

/// Writes to standard output. A closed pipe, as after `| head`, counts as success.
fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CliError> {
    let mut out = terminal::Visible::new(BufWriter::new(io::stdout().lock()));
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Usage::Stdout(error).into()),
        _ => Ok(()),
    }
}
