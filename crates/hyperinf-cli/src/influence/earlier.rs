use std::fs::{canonicalize, read};
use std::path::{Path, PathBuf};

use hyperinf::data::listed;
use hyperinf::store::{Staged, publish};
use serde_json::{Map, Value, json};

use super::Job;
use crate::error::CliError;
use crate::progress::warn;

/// The entry of a summary that names all files that were written.
const OUTPUTS: &str = "outputs";

/// The name of a command's summary in a folder: `summary.json`, unless that is another command's.
pub(crate) fn summary_name(folder: &Path, command: &str) -> String {
    let usual = "summary.json";
    let others = folder.join(usual).exists() && read_summary(folder, usual)["command"] != command;
    if others { format!("{command}-{usual}") } else { usual.to_owned() }
}

/// A summary; `null` if it cannot be read.
fn read_summary(folder: &Path, name: &str) -> Value {
    let bytes = read(folder.join(name)).ok();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Outputs of an earlier run of the same command, by its summary, that this run does not write.
pub(crate) struct Earlier {
    folder: PathBuf,
    names: Vec<String>,
}

impl Job<'_> {
    /// Lists stale outputs with this prefix, before the summary is replaced. Inputs are never listed.
    pub(crate) fn earlier(&self, command: &str, prefix: &str) -> Earlier {
        let folder = self.args.out.clone();
        // Without a summary of this program nothing is known about the files next to it.
        let summary = read_summary(&folder, &summary_name(&folder, command));
        let outputs = summary[OUTPUTS].as_array().filter(|_| summary["command"] == command);
        let args = self.args;
        let optional = [args.adapter.as_deref(), args.model.tokenizer.as_deref()].into_iter().flatten();
        let inputs: Vec<PathBuf> = [args.train.as_path(), self.query, Path::new(&args.model.model)]
            .into_iter()
            .chain(optional)
            .filter_map(|input| canonicalize(input).ok())
            .collect();
        let stale = |name: &&str| {
            let path = folder.join(name);
            name.starts_with(prefix)
                && Path::new(name).file_name().is_some_and(|plain| plain == *name)
                && !self.outputs.iter().any(|output| output.eq_ignore_ascii_case(name))
                && path.is_file()
                && canonicalize(path).is_ok_and(|real| !inputs.contains(&real))
        };
        let names = outputs.into_iter().flatten().filter_map(Value::as_str).filter(stale).map(str::to_owned).collect();
        Earlier { folder, names }
    }

    /// The summary's entry of this run's outputs.
    pub(crate) fn outputs(&self) -> Map<String, Value> {
        Map::from_iter([(OUTPUTS.to_owned(), json!(self.outputs))])
    }
}

impl Earlier {
    /// Places the results together, in place of those of the earlier run, and removes its stale outputs.
    pub(crate) fn replace(self, results: Vec<Staged<'_>>) -> Result<(), CliError> {
        let stale: Vec<PathBuf> = self.names.iter().map(|name| self.folder.join(name)).collect();
        publish(results, &stale)?;
        if !self.names.is_empty() {
            let (names, folder) = (listed(&self.names), self.folder.display());
            warn(&format!("results of an earlier run are removed: {names} in {folder}"));
        }
        Ok(())
    }
}
