use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory};
use hyperinf::store::{Staged, StoreError, publish};
use toml::Value;

use super::{COMMAND, is_list, is_switch, key_of, options};
use crate::args::Cli;

/// The name of the configuration next to results.
pub(crate) const FILE: &str = "run.toml";

/// A resumed run has the same configuration as one that was never interrupted.
const UNTOLD: [&str; 1] = ["resume"];

/// The keys of this run with their values, in the order of the flags.
static KEYS: Mutex<Vec<(String, Value)>> = Mutex::new(Vec::new());

/// Remembers all values of this run, typed or by default.
pub(crate) fn remember(matches: &ArgMatches) {
    let mut root = Cli::command();
    root.build();
    let (mut command, mut matches, mut path) = (&root, matches, Vec::new());
    while let Some((name, of_command)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { return };
        (command, matches) = (found, of_command);
        path.push(name);
    }
    let mut keys = vec![(COMMAND.to_owned(), Value::String(path.join(" ")))];
    keys.extend(values(command, matches));
    *KEYS.lock().unwrap_or_else(PoisonError::into_inner) = keys;
}

fn values(command: &Command, matches: &ArgMatches) -> Vec<(String, Value)> {
    let given = options(command).filter(|arg| matches.value_source(arg.get_id().as_str()).is_some());
    let given = given.filter(|arg| !UNTOLD.contains(&arg.get_id().as_str()));
    let value = |arg: &clap::Arg| {
        let id = arg.get_id().as_str();
        if is_switch(arg) {
            let on = matches.get_flag(id);
            return (on && matches.value_source(id) == Some(ValueSource::CommandLine)).then_some(Value::Boolean(true));
        }
        let texts = matches.get_raw(id)?.map(|text| text.to_string_lossy().into_owned());
        let mut values: Vec<Value> = texts.map(of_word).collect();
        if is_list(arg) && values.len() != 1 { Some(Value::Array(values)) } else { values.pop() }
    };
    given.filter_map(|arg| Some((key_of(arg), value(arg)?))).collect()
}

/// A number where the text is one and nothing is lost, else the text.
fn of_word(text: String) -> Value {
    if let Some(number) = text.parse().ok().filter(|number: &i64| number.to_string() == text) {
        return Value::Integer(number);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number.to_string() == text => Value::Float(number),
        _ => Value::String(text),
    }
}

/// Sets a value that was found during the run.
pub(crate) fn resolve(key: &str, value: usize) {
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    let value = Value::Integer(i64::try_from(value).unwrap_or(i64::MAX));
    match keys.iter_mut().find(|(known, _)| known == key) {
        Some(found) => found.1 = value,
        None => keys.push((key.to_owned(), value)),
    }
}

/// Removes a key: the run takes the default.
pub(crate) fn unset(key: &str) {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| known != key);
}

/// The configuration as a file that replays the run.
pub(crate) fn text() -> String {
    let keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = keys.iter().map(|(key, value)| format!("{key} = {value}\n"));
    let version = env!("CARGO_PKG_VERSION");
    let head = format!("# hyperinf {version}; in the same folder: hyperinf --config FILE\n");
    std::iter::once(head).chain(lines).collect()
}

/// Stages the configuration of this run.
pub(crate) fn stage(path: &Path) -> Result<Staged<'_>, StoreError> {
    Staged::new(path, |file| Ok(file.write_all(text().as_bytes())?))
}

/// `FILE.run.toml`: the configuration of a result that is the file `FILE`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(FILE);
    PathBuf::from(name)
}

/// Places the files of a result that is the file at `path`, with the configuration of this run.
pub(crate) fn place(path: &Path, staged: Vec<Staged<'_>>) -> Result<(), StoreError> {
    let beside = beside(path);
    let mut all = vec![stage(&beside)?];
    all.extend(staged);
    publish(all, &[])
}
