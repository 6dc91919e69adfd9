//! Errors of the program, with their exit codes and hints.
//!
//! This module imports libraries only: every other module of the program may import it.

mod hints;
mod library;

use std::error::Error;
use std::io;
use std::path::PathBuf;

use hyperinf::DeviceError;
use hyperinf::data::RunError;
use hyperinf::eval::convergence::ConvergenceError;
use hyperinf::scoring::SpecError;
use hyperinf_report::ReportError;

pub(crate) use library::Library;

/// Why the program ended without a result. The variant is the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// 2: a flag, a name, the device or an output path is wrong.
    #[error(transparent)]
    Usage(Box<Usage>),
    /// 3: an input file is wrong.
    #[error(transparent)]
    Input(Box<Input>),
    /// 4: the numbers allow no answer.
    #[error(transparent)]
    Numbers(Box<Numbers>),
    /// 128 and the signal's number: a signal stopped the run, and what is finished is kept.
    #[error(transparent)]
    Stopped(Box<Library>),
}

/// A flag, a name, the device or an output path is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Usage {
    /// The method cannot be parsed.
    #[error(transparent)]
    Spec(SpecError),
    /// A damping that is not positive and finite.
    #[error("{flag} must be positive and finite, not {value}")]
    Damping {
        /// The flag.
        flag: &'static str,
        /// The value given.
        value: f64,
    },
    /// Two choices that contradict each other.
    #[error("{first} and {second} do not go together: {reason}")]
    Combination {
        /// The first choice.
        first: String,
        /// The second choice.
        second: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A number out of its range.
    #[error("{flag} must be {expected}, not {value}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What it must be.
        expected: &'static str,
        /// The value given.
        value: f64,
    },
    /// No rows, or more than there are.
    #[error("{flag} asks for {asked} rows of {rows}")]
    Amount {
        /// The flag.
        flag: &'static str,
        /// The rows asked for.
        asked: usize,
        /// The rows that can be used.
        rows: usize,
    },
    /// A type that the device lacks.
    #[error("the device {device} has no {precision}")]
    Precision {
        /// The device.
        device: String,
        /// The type.
        precision: &'static str,
    },
    /// A share of wrong labels that is not below one half.
    #[error("--noise must be at least 0 and below 0.5, not {value}")]
    Noise {
        /// The value given.
        value: f64,
    },
    /// `--set` without a key.
    #[error("--set takes KEY=VALUE, not `{text}`")]
    Set {
        /// What was given.
        text: String,
    },
    /// A key that is no flag of the command.
    #[error("the key `{key}` of {place} is unknown: `hyperinf {command}` has no such option")]
    UnknownKey {
        /// The key.
        key: String,
        /// The file, or `--set`.
        place: String,
        /// The command.
        command: String,
        /// The nearest name that it has.
        nearest: Option<String>,
    },
    /// A key with a value of another type.
    #[error("the key `{key}` of {place} takes {expected}")]
    Key {
        /// The key.
        key: String,
        /// The file, or `--set`.
        place: String,
        /// What it takes.
        expected: &'static str,
    },
    /// A configuration of another command.
    #[error("{place} is for `hyperinf {named}`, not for `hyperinf {typed}`")]
    OtherCommand {
        /// The command on the command line.
        typed: String,
        /// The command of the configuration.
        named: String,
        /// The file, or `--set`.
        place: String,
    },
    /// A command that does not exist.
    #[error("there is no command `{name}`")]
    UnknownCommand {
        /// Its name.
        name: String,
        /// The nearest that exists.
        nearest: Option<String>,
    },
    /// A level of messages that does not exist.
    #[error("`{value}` in {variable} is no level of messages")]
    LogLevel {
        /// The environment's variable.
        variable: &'static str,
        /// What it has.
        value: String,
    },
    /// No command, neither typed nor in the configuration.
    #[error("no command is named, neither by an argument nor by the key `command`")]
    NoCommand,
    /// The device is not available.
    #[error(transparent)]
    Device(DeviceError),
    /// Standard output cannot be written; a closed pipe is not an error.
    #[error("standard output cannot be written")]
    Stdout(#[source] io::Error),
    /// A library refused a choice or an output path.
    #[error(transparent)]
    Library(Library),
}

/// An input file is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Input {
    /// A small file cannot be used.
    #[error("the {what} in `{path}` cannot be used")]
    File {
        /// What it holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Results make no page.
    #[error(transparent)]
    Report(ReportError),
    /// `check` found what makes scores wrong.
    #[error("checks failed: {failed}")]
    Checks {
        /// Those that failed.
        failed: String,
    },
    /// Files of an index are not what was written.
    #[error("the index `{path}` has {faults} damaged or missing files; the first: {first}")]
    Faults {
        /// The index.
        path: PathBuf,
        /// Their number.
        faults: usize,
        /// The first of them, and what is wrong with it.
        first: String,
    },
    /// Rows of standard input that could not be used, each with its answer; or the input itself.
    #[error("{failed} of {asked} rows of standard input could not be used{}", unread(.source))]
    Questions {
        /// The rows that were read.
        asked: usize,
        /// Those that could not be used.
        failed: usize,
        /// Why no more could be read.
        source: Option<io::Error>,
    },
    /// A library refused a file.
    #[error(transparent)]
    Library(Library),
}

fn unread(source: &Option<io::Error>) -> &'static str {
    if source.is_some() { ", and further ones could not be read" } else { "" }
}

/// The numbers allow no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Numbers {
    /// With `--strict`: a method of a comparison could not be computed.
    #[error("the method {method} was left out: {reason}")]
    LeftOut {
        /// The method.
        method: String,
        /// Why.
        reason: String,
    },
    /// No method of a comparison could be computed.
    #[error("none of the {methods} methods could be computed; {first}: {reason}")]
    NoneComputed {
        /// Their number.
        methods: usize,
        /// The first of them.
        first: String,
        /// Why it could not.
        reason: String,
    },
    /// With `--strict`: a solver did not reach its tolerance.
    #[error(
        "{blocks} of {of} blocks did not reach the solver's tolerance: the largest relative residual is {residual:.2e}, in block `{worst}`; expected at most {tolerance:.2e}"
    )]
    NotConverged {
        /// Blocks that did not converge.
        blocks: usize,
        /// All blocks that were inverted.
        of: usize,
        /// The block with the largest residual.
        worst: String,
        /// Its relative residual.
        residual: f64,
        /// The tolerance.
        tolerance: f64,
    },
    /// Systems of `converge` do not fit into memory.
    #[error(transparent)]
    Converge(ConvergenceError),
    /// A library found no answer.
    #[error(transparent)]
    Library(Library),
}

impl CliError {
    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Input(_) => 3,
            Self::Numbers(_) => 4,
            Self::Stopped(_) => 128,
        }
    }

    /// Whether a signal stopped the run.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self, Self::Stopped(_))
    }

    /// Whether another rank is why this one could not go on.
    pub(crate) fn is_of_team(&self) -> bool {
        let library = match self {
            Self::Numbers(numbers) => match &**numbers {
                Numbers::Library(library) => library,
                _ => return false,
            },
            Self::Usage(_) | Self::Input(_) | Self::Stopped(_) => return false,
        };
        matches!(library, Library::Run(error) if matches!(error, RunError::Team(_)))
    }

    /// The causes, the first cause last, without the message itself.
    pub(crate) fn causes(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        for message in causes(self) {
            // Some messages end in their cause.
            if !texts.last().is_some_and(|last| last.ends_with(&message)) {
                texts.push(message);
            }
        }
        if texts.is_empty() { self.to_string() } else { texts.join(": ") }
    }

    /// The message, its causes and a hint; `message` prepares each for its reader.
    pub(crate) fn report(&self, message: impl Fn(&str) -> String) -> String {
        let mut text = format!("error: {}", message(&self.to_string()));
        for cause in causes(self).map(|cause| message(&cause)) {
            if !text.ends_with(&cause) {
                text.push_str(&format!("\n  because: {cause}"));
            }
        }
        if let Some(hint) = self.hint() {
            text.push_str(&format!("\n  hint: {hint}"));
        }
        text
    }
}

/// The messages of an error's causes, the first cause last.
fn causes(error: &CliError) -> impl Iterator<Item = String> {
    std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string)
}

impl From<Usage> for CliError {
    fn from(error: Usage) -> Self {
        Self::Usage(Box::new(error))
    }
}

impl From<SpecError> for CliError {
    fn from(error: SpecError) -> Self {
        Usage::Spec(error).into()
    }
}

impl From<DeviceError> for CliError {
    fn from(error: DeviceError) -> Self {
        Usage::Device(error).into()
    }
}

impl From<ReportError> for CliError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Run(error) => (*error).into(),
            ReportError::Store(error) => (*error).into(),
            other => Input::Report(other).into(),
        }
    }
}

impl From<Input> for CliError {
    fn from(error: Input) -> Self {
        Self::Input(Box::new(error))
    }
}

impl From<Numbers> for CliError {
    fn from(error: Numbers) -> Self {
        Self::Numbers(Box::new(error))
    }
}
