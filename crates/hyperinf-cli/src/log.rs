//! Messages on standard error: for people, or as JSON lines.

use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::args::{GlobalArgs, LogFormat, LogLevel};
use crate::team::helps;
use crate::terminal::{message, tell};

static LOG: OnceLock<(LogFormat, LogLevel)> = OnceLock::new();

/// Follows the options from now on.
pub(crate) fn set(args: &GlobalArgs) {
    // It is set once, before anything is written.
    let _ = LOG.set((args.log_format, args.log_level));
}

fn format() -> LogFormat {
    LOG.get().map_or(LogFormat::Text, |log| log.0)
}

fn is_on(level: LogLevel) -> bool {
    level <= LOG.get().map_or(LogLevel::Info, |log| log.1)
}

/// Whether a bar can be drawn.
pub(crate) fn draws_bars() -> bool {
    stderr().is_terminal() && format() == LogFormat::Text && is_on(LogLevel::Info)
}

/// Writes a message; an error has its causes on lines of their own.
pub(crate) fn write(level: LogLevel, text: &str) {
    // What rank 0 says, too; an error is the rank's own.
    if !is_on(level) || helps() && level != LogLevel::Error {
        return;
    }
    let (name, word) = match level {
        LogLevel::Error => ("error", ""),
        LogLevel::Warn => ("warn", "warning: "),
        LogLevel::Info => ("info", "note: "),
    };
    match format() {
        LogFormat::Text if level == LogLevel::Error => tell(text),
        LogFormat::Text => tell(&format!("{word}{}", message(text))),
        LogFormat::Json => object(json!({ "level": name, "message": text })),
    }
}

/// Writes the progress of a stage: `text` for people, `fields` otherwise.
pub(crate) fn progress(text: impl FnOnce() -> String, fields: impl FnOnce() -> Value) {
    match format() {
        _ if !is_on(LogLevel::Info) => {}
        LogFormat::Text => tell(&text()),
        LogFormat::Json => object(fields()),
    }
}

fn object(mut fields: Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    fields["time"] = json!((now * 1e3).round() / 1e3);
    tell(&fields.to_string());
}
