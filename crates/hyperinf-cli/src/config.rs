//! Configuration: a TOML file whose keys are the names of a command's flags, and the one that is written with results.
//!
//! The flags are the only list of options: a file becomes arguments, which the parser of the command line then checks.

mod resolved;
mod schema;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command, CommandFactory};
use hyperinf::models::read_regular;
use toml::{Table, Value};

use crate::args::Cli;
use crate::error::{CliError, Input, Usage};

pub(crate) use resolved::{FILE, place, remember, resolve, stage, text, unset};
pub(crate) use schema::run as schema;

/// The key of the command.
const COMMAND: &str = "command";
/// The flags of this module, which are no keys.
const OWN: [&str; 6] = ["config", "set", "log_format", "log_level", "help", "version"];
/// How similar a name must be to be meant.
const SIMILAR: f64 = 0.75;

/// What `--config` and `--set` say, and the other arguments.
#[derive(Default)]
struct Given {
    file: Option<PathBuf>,
    sets: Vec<String>,
    rest: Vec<OsString>,
}

/// The arguments with those of `--config` and `--set` in place of these two. A flag that is typed counts more than
/// `--set`, which counts more than the file.
///
/// # Errors
///
/// If the file cannot be read, or a key or a command is unknown. Values are checked with the arguments.
pub(crate) fn expand(typed: Vec<OsString>) -> Result<Vec<OsString>, CliError> {
    let Some(Given { file, sets, rest }) = Given::take(&typed) else { return Ok(typed) };
    let mut keys: BTreeMap<String, (Value, String)> = BTreeMap::new();
    if let Some(path) = &file {
        let place = format!("`{}`", path.display());
        keys.extend(read(path)?.into_iter().map(|(key, value)| (key, (value, place.clone()))));
    }
    for set in &sets {
        let Some((key, value)) = set.split_once('=') else {
            return Err(Usage::Set { text: set.clone() }.into());
        };
        keys.insert(key.trim().to_owned(), (of_text(value), "--set".to_owned()));
    }
    let mut root = Cli::command();
    root.build();
    let (mut command, mut path) = (&root, Vec::new());
    while let Some(found) = rest.get(1 + path.len()).and_then(|word| command.find_subcommand(word)) {
        path.push(found.get_name().to_owned());
        command = found;
    }
    let typed_words = path.len();
    if let Some((value, place)) = keys.remove(COMMAND) {
        let named = value.as_str().unwrap_or_default().to_owned();
        let words: Vec<String> = named.split_whitespace().map(str::to_owned).collect();
        if command.has_subcommands() {
            path.extend(words);
        } else if !path.ends_with(&words) || words.is_empty() {
            return Err(Usage::OtherCommand { typed: path.join(" "), named, place }.into());
        }
    }
    let command = find(&path)?;
    let mut expanded: Vec<OsString> = rest.iter().take(1).cloned().collect();
    expanded.extend(path.iter().map(OsString::from));
    let tail = &rest[(1 + typed_words).min(rest.len())..];
    for (key, (value, place)) in keys {
        let arg = options(&command).find(|arg| key_of(arg) == key);
        let arg = arg.ok_or_else(|| unknown(&key, place.clone(), &command, &path))?;
        let is_typed = |word: &OsString| {
            let word = word.to_string_lossy();
            word.strip_prefix("--").is_some_and(|flag| flag.split('=').next() == Some(&*key))
        };
        if !tail.iter().any(is_typed) {
            let words = words(arg, &key, &value).map_err(|expected| Usage::Key { key, place, expected })?;
            expanded.extend(words.into_iter().map(OsString::from));
        }
    }
    expanded.extend_from_slice(tail);
    Ok(expanded)
}

impl Given {
    /// `None` without `--config` and `--set`, or if help is asked for.
    fn take(typed: &[OsString]) -> Option<Self> {
        let (mut given, mut words) = (Self::default(), typed.iter());
        let mut found = false;
        while let Some(word) = words.next() {
            let text = word.to_string_lossy();
            let (flag, value) = text.split_once('=').map_or((&*text, None), |(flag, value)| (flag, Some(value)));
            match flag {
                "--help" | "-h" => return None,
                "--config" | "--set" => {
                    // Without a value the parser complains.
                    let value = value.map(OsString::from).or_else(|| words.next().cloned())?;
                    found = true;
                    if flag == "--config" {
                        given.file = Some(value.into());
                    } else {
                        given.sets.push(value.to_string_lossy().into_owned());
                    }
                }
                _ => given.rest.push(word.clone()),
            }
        }
        found.then_some(given)
    }
}

fn read(path: &Path) -> Result<Table, CliError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
        CliError::from(Input::File { what: "configuration", path: path.to_owned(), source })
    };
    let bytes = read_regular(path).map_err(|error| failed(error.into()))?;
    let text = String::from_utf8(bytes).map_err(|error| failed(error.into()))?;
    text.parse::<Table>().map_err(|error| failed(error.to_string().trim_end().into()))
}

/// The value of `--set`: a truth value, a list, or a text, which numbers are as well.
fn of_text(text: &str) -> Value {
    let list = || format!("value = {text}").parse::<Table>().ok()?.remove("value");
    match text.trim() {
        "true" => Value::Boolean(true),
        "false" => Value::Boolean(false),
        list_like if list_like.starts_with('[') => list().unwrap_or_else(|| Value::String(text.to_owned())),
        _ => Value::String(text.to_owned()),
    }
}

/// The command at the end of a path of names.
fn find(path: &[String]) -> Result<Command, CliError> {
    let mut command = Cli::command();
    command.build();
    for name in path {
        let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        let nearest = nearest(name, names.into_iter());
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| Usage::UnknownCommand { name: name.clone(), nearest })?;
    }
    if command.has_subcommands() {
        return Err(Usage::NoCommand.into());
    }
    Ok(command)
}

/// The arguments of a command that are keys.
fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !OWN.contains(&arg.get_id().as_str()))
}

/// The key of an argument: its flag, or for one without a flag its name.
fn key_of(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().as_str().replace('_', "-"), str::to_owned)
}

fn unknown(key: &str, place: String, command: &Command, path: &[String]) -> Usage {
    let known: Vec<String> = options(command).filter(|arg| !arg.is_hide_set()).map(key_of).collect();
    let nearest = nearest(key, known.iter().map(String::as_str));
    Usage::UnknownKey { key: key.to_owned(), place, command: path.join(" "), nearest }
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let rated = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = rated.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(similar, _)| *similar >= SIMILAR);
    best.map(|(_, known)| known.to_owned())
}

/// Whether an argument is on or off.
fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

/// Whether an argument takes several values.
fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append) || arg.get_num_args().is_some_and(|count| count.max_values() > 1)
}

/// Whether an argument may stand without its value.
fn is_optional(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|count| count.min_values() == 0)
}

/// The words on the command line that say the same as a key; the error is what is expected.
fn words(arg: &Arg, key: &str, value: &Value) -> Result<Vec<String>, &'static str> {
    let flag = format!("--{key}");
    match value {
        Value::Boolean(false) if is_switch(arg) || is_optional(arg) => return Ok(Vec::new()),
        Value::Boolean(true) if is_switch(arg) || is_optional(arg) => return Ok(vec![flag]),
        _ if is_switch(arg) => return Err("true or false"),
        _ => {}
    }
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    };
    let values = match value {
        Value::Array(values) if is_list(arg) => values.iter().map(text).collect::<Option<Vec<_>>>(),
        value => text(value).map(|text| vec![text]),
    };
    let values =
        values.ok_or(if is_list(arg) { "a text, a number or a list of them" } else { "a text or a number" })?;
    if arg.is_positional() {
        return Ok(values);
    }
    match arg.get_value_delimiter() {
        Some(delimiter) => Ok(vec![format!("{flag}={}", values.join(&delimiter.to_string()))]),
        None if arg.get_num_args().is_some_and(|count| count.max_values() > 1) => Ok([vec![flag], values].concat()),
        None => Ok(values.into_iter().map(|value| format!("{flag}={value}")).collect()),
    }
}
