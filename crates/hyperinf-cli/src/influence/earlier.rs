use std::fs::canonicalize;
use std::path::{Path, PathBuf};

use hyperinf::data::listed;
use hyperinf::models::read_regular;
use hyperinf::store::{Staged, publish};
use hyperinf_report::is_stale;
use serde_json::{Map, Value, json};

use super::{Each, Job};
use crate::config;
use crate::error::CliError;
use crate::progress::{note, warn};
use crate::report::PAGE;

/// The entry of a summary that names all files that were written.
const OUTPUTS: &str = "outputs";

/// A summary; `null` if it cannot be read.
fn read_summary(folder: &Path, name: &str) -> Value {
    let bytes = read_regular(&folder.join(name)).ok();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Outputs of an earlier run of the same command, by its summary, that this run does not write.
pub(crate) struct Earlier {
    folder: PathBuf,
    names: Vec<String>,
    /// The configuration of this run.
    config: PathBuf,
    /// Its summary.
    summary: PathBuf,
}

impl Each<'_> {
    /// Lists stale outputs with these prefixes, before the summary is replaced. Inputs are never listed.
    pub(crate) fn earlier(&self, prefixes: &[&str]) -> Earlier {
        let folder = self.folder.clone();
        let Job { command, args, query, outputs: written, .. } = self.job;
        // Without a summary of this program nothing is known about the files next to it.
        let summary = read_summary(&folder, &self.summary_name());
        let outputs = summary[OUTPUTS].as_array().filter(|_| summary["command"] == *command);
        let optional = [args.adapter.as_deref(), args.model.tokenizer.as_deref()].into_iter().flatten();
        let inputs: Vec<PathBuf> = [args.train.as_path(), *query, Path::new(&args.model.model)]
            .into_iter()
            .chain(optional)
            .filter_map(|input| canonicalize(input).ok())
            .collect();
        let stale = |name: &&str| {
            let path = folder.join(name);
            prefixes.iter().any(|prefix| name.starts_with(prefix))
                && Path::new(name).file_name().is_some_and(|plain| plain == *name)
                && !written.iter().any(|output| output.eq_ignore_ascii_case(name))
                && path.is_file()
                && canonicalize(path).is_ok_and(|real| !inputs.contains(&real))
        };
        let names = outputs.into_iter().flatten().filter_map(Value::as_str).filter(stale).map(str::to_owned).collect();
        let (config, summary) = (folder.join(self.config_name()), folder.join(self.summary_name()));
        Earlier { folder, names, config, summary }
    }

    /// The name of the summary: `summary.json`, unless that is another command's in this folder.
    pub(crate) fn summary_name(&self) -> String {
        let (usual, command) = ("summary.json", self.job.command);
        let others = self.folder.join(usual).exists() && read_summary(&self.folder, usual)["command"] != command;
        if others { format!("{command}-{usual}") } else { usual.to_owned() }
    }

    /// The name of the configuration next to the summary.
    pub(crate) fn config_name(&self) -> String {
        self.summary_name().replace("summary.json", "run.toml")
    }

    /// The summary's entry of this run's outputs.
    pub(crate) fn outputs(&self) -> Map<String, Value> {
        let (summary, config) = (self.summary_name(), self.config_name());
        let outputs: Vec<&str> = self.job.outputs.iter().copied().chain([&*config, &*summary]).collect();
        Map::from_iter([(OUTPUTS.to_owned(), json!(outputs))])
    }
}

impl Earlier {
    /// Says that this run writes an output that not every run of the command does.
    pub(crate) fn writes(&mut self, name: &str, outputs: &mut Map<String, Value>) {
        self.names.retain(|stale| stale != name);
        if let Some(Value::Array(names)) = outputs.get_mut(OUTPUTS) {
            names.push(json!(name));
        }
    }

    /// Places the results together, in place of those of the earlier run, and removes its stale outputs.
    pub(crate) fn replace(self, results: Vec<Staged<'_>>) -> Result<(), CliError> {
        let stale: Vec<PathBuf> = self.names.iter().map(|name| self.folder.join(name)).collect();
        let mut results: Vec<Staged<'_>> = results;
        // The summary stays the last.
        results.insert(results.len().saturating_sub(1), config::stage(&self.config)?);
        publish(results, &stale)?;
        let page = self.folder.join(PAGE);
        if is_stale(&page, &self.summary).ok().flatten() == Some(true) {
            let (page, folder) = (page.display(), self.folder.display());
            note(&format!("{page} shows earlier results; for these: hyperinf report {folder}"));
        }
        if !self.names.is_empty() {
            let (names, folder) = (listed(&self.names), self.folder.display());
            warn(&format!("results of an earlier run are removed: {names} in {folder}"));
        }
        Ok(())
    }
}
