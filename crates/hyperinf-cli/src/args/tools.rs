use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::{AttributeArgs, DetectArgs, FinetuneArgs, IndexArgs, SelectArgs, examples};

/// Arguments of `hyperinf plan`: a command with its own.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The command.
    #[command(subcommand)]
    pub of: Planned,
}

/// The commands that can be planned.
#[derive(Debug, Subcommand)]
pub(crate) enum Planned {
    /// Plan `hyperinf attribute`
    #[command(override_usage = examples::PLAN_ATTRIBUTE_USAGE)]
    Attribute(AttributeArgs),
    /// Plan `hyperinf detect`
    #[command(override_usage = examples::PLAN_DETECT_USAGE)]
    Detect(DetectArgs),
    /// Plan `hyperinf select`
    #[command(override_usage = examples::PLAN_SELECT_USAGE)]
    Select(SelectArgs),
    /// Plan `hyperinf index`
    #[command(override_usage = examples::PLAN_INDEX_USAGE)]
    Index(IndexArgs),
    /// Plan `hyperinf finetune`
    #[command(override_usage = examples::PLAN_FINETUNE_USAGE)]
    Finetune(PlanFinetuneArgs),
}

/// Arguments of `hyperinf plan finetune`.
#[derive(Debug, Args)]
pub(crate) struct PlanFinetuneArgs {
    /// Those of the command.
    #[command(flatten)]
    pub finetune: FinetuneArgs,
    /// Print the plan as JSON.
    #[arg(long, display_order = 12)]
    pub json: bool,
}

impl PlanArgs {
    /// Whether the plan is printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        match &self.of {
            Planned::Attribute(args) => args.influence.scoring.json,
            Planned::Detect(args) => args.influence.scoring.json,
            Planned::Select(args) => args.influence.scoring.json,
            Planned::Index(args) => args.json,
            Planned::Finetune(args) => args.json,
        }
    }
}

/// Arguments of `hyperinf schema`.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Only the schema of this command, such as `attribute` or `eval lds`.
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Arguments of `hyperinf completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Arguments of `hyperinf man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write the pages of all commands into this folder: hyperinf.1, hyperinf-detect.1, …
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Take options from a TOML file: `command = "detect"` and the names of flags without `--`; flags count more.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,
    /// Set an option as in the file; may be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE", help_heading = "Configuration")]
    pub set: Vec<String>,
    /// How progress, notes and errors are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Configuration")]
    pub log_format: LogFormat,
    /// What is written to standard error: errors, also warnings, also notes and progress, or also how long each stage
    /// took [default: the environment's HYPERINF_LOG, or info].
    #[arg(long, global = true, value_enum, value_name = "LEVEL", help_heading = "Configuration")]
    pub log_level: Option<LogLevel>,
}

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Which messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum LogLevel {
    /// Errors.
    Error,
    /// Warnings as well.
    Warn,
    /// Notes and progress as well.
    #[default]
    Info,
    /// Also how long each stage took.
    Debug,
}

/// Rows of a batch: a number, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchSizeArg {
    /// The fastest that fits, by a measurement.
    Auto,
    /// So many.
    Rows(u32),
}

impl BatchSizeArg {
    pub(crate) fn is_auto(self) -> bool {
        self == Self::Auto
    }

    /// The rows, if they are a number.
    pub(crate) fn number(self) -> Option<usize> {
        match self {
            Self::Auto => None,
            Self::Rows(rows) => Some(rows as usize),
        }
    }

    /// The rows; while none are chosen, the usual number.
    pub(crate) fn rows(self) -> usize {
        match self {
            Self::Auto => 16,
            Self::Rows(rows) => rows as usize,
        }
    }
}

impl FromStr for BatchSizeArg {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        match typed {
            "auto" => Ok(Self::Auto),
            _ => match typed.parse() {
                Ok(rows) if rows > 0 => Ok(Self::Rows(rows)),
                _ => Err("expected auto or a number of rows, at least 1".into()),
            },
        }
    }
}
