//! Events of `tracing` on standard error: sentences for people, or an object per line.

use std::fmt::{self, Debug, Write};
use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::args::{GlobalArgs, LogFormat, LogLevel};
use crate::error::{CliError, Usage};
use crate::progress::duration;
use crate::terminal::{Visible, message};

/// The level without `--log-level`.
const VARIABLE: &str = "HYPERINF_LOG";

static IS_TEXT: OnceLock<bool> = OnceLock::new();

/// Follows the options from now on.
///
/// # Errors
///
/// If the variable has no level.
pub(crate) fn set(args: &GlobalArgs) -> Result<(), CliError> {
    let of_variable = std::env::var(VARIABLE).unwrap_or_default();
    let level = match args.log_level {
        Some(level) => Ok(level),
        None if of_variable.is_empty() => Ok(LogLevel::default()),
        None => LogLevel::from_str(&of_variable, true),
    };
    install(args.log_format, level.as_ref().copied().unwrap_or_default());
    level.map(drop).map_err(|_| Usage::LogLevel { variable: VARIABLE, value: of_variable }.into())
}

/// For errors before the options are known.
pub(crate) fn set_default() {
    install(LogFormat::Text, LogLevel::Info);
}

fn install(format: LogFormat, level: LogLevel) {
    if IS_TEXT.set(format == LogFormat::Text).is_err() {
        return;
    }
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    // Without standard error nobody reads it.
    let all = tracing_subscriber::fmt().with_max_level(level).log_internal_errors(false);
    let all = all.with_writer(|| Visible::new(stderr()));
    // It is set once, above.
    let _ = match format {
        LogFormat::Text => tracing::subscriber::set_global_default(all.event_format(Sentences).finish()),
        LogFormat::Json => {
            let objects = all.json().flatten_event(true).with_target(false).with_current_span(false);
            tracing::subscriber::set_global_default(objects.with_span_list(false).finish())
        }
    };
}

/// Whether a bar can be drawn.
pub(crate) fn draws_bars() -> bool {
    stderr().is_terminal() && IS_TEXT.get().is_some_and(|text| *text) && tracing::enabled!(Level::INFO)
}

/// Events for people. An error has its causes on lines of their own.
struct Sentences;

/// The fields that sentences are made of.
#[derive(Default)]
struct Fields {
    message: String,
    stage: Option<String>,
    done: u64,
    total: u64,
    seconds_left: Option<f64>,
}

impl<S, N> FormatEvent<S, N> for Sentences
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message: text, stage, done, total, seconds_left } = fields;
        let level = *event.metadata().level();
        if let Some(stage) = stage.filter(|_| level == Level::INFO) {
            let left = seconds_left.map(|left| format!(", {} left", duration(left))).unwrap_or_default();
            return writeln!(writer, "{stage}: {done} of {total}, {text}{left}");
        }
        match level {
            Level::ERROR => writeln!(writer, "{text}"),
            Level::WARN => writeln!(writer, "warning: {}", message(&text)),
            Level::INFO => writeln!(writer, "note: {}", message(&text)),
            _ => writeln!(writer, "debug: {}", message(&text)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // A text can always be written to.
            let _ = write!(self.message, "{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "stage" => self.stage = Some(value.to_owned()),
            "message" => value.clone_into(&mut self.message),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "done" => self.done = value,
            "total" => self.total = value,
            _ => {}
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "seconds_left" {
            self.seconds_left = Some(value);
        }
    }
}
