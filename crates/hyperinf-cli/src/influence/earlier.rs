use std::fs::{canonicalize, read, remove_file};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hyperinf::data::listed;
use hyperinf::store::StoreError;
use serde_json::{Map, Value, json};

use super::{Each, Job};
use crate::error::CliError;
use crate::progress::warn;

/// The entry of a summary that names all files that were written.
const OUTPUTS: &str = "outputs";

/// Outputs of an earlier run of the same command, by its summary, that this run does not write.
pub(crate) struct Earlier {
    folder: PathBuf,
    names: Vec<String>,
}

impl Each<'_> {
    /// Lists stale outputs with this prefix, before the summary is replaced. Inputs are never listed.
    pub(crate) fn earlier(&self, command: &str, prefix: &str) -> Earlier {
        let folder = self.folder.clone();
        // Without a summary of this program nothing is known about the files next to it.
        let summary = read(folder.join("summary.json")).ok();
        let summary: Value = summary.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let outputs = summary[OUTPUTS].as_array().filter(|_| summary["command"] == command);
        let Job { args, query, outputs: written, .. } = self.job;
        let optional = [args.adapter.as_deref(), args.model.tokenizer.as_deref()].into_iter().flatten();
        let inputs: Vec<PathBuf> = [args.train.as_path(), *query, Path::new(&args.model.model)]
            .into_iter()
            .chain(optional)
            .filter_map(|input| canonicalize(input).ok())
            .collect();
        let stale = |name: &&str| {
            let path = folder.join(name);
            name.starts_with(prefix)
                && Path::new(name).file_name().is_some_and(|plain| plain == *name)
                && !written.iter().any(|output| output.eq_ignore_ascii_case(name))
                && path.is_file()
                && canonicalize(path).is_ok_and(|real| !inputs.contains(&real))
        };
        let names = outputs.into_iter().flatten().filter_map(Value::as_str).filter(stale).map(str::to_owned).collect();
        Earlier { folder, names }
    }

    /// The summary's entry of this run's outputs.
    pub(crate) fn outputs(&self) -> Map<String, Value> {
        Map::from_iter([(OUTPUTS.to_owned(), json!(self.job.outputs))])
    }
}

impl Earlier {
    /// Removes the stale outputs.
    pub(crate) fn remove(self) -> Result<(), CliError> {
        for name in &self.names {
            let path = self.folder.join(name);
            match remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(StoreError::output(&path, error).into());
                }
                _ => {}
            }
        }
        if !self.names.is_empty() {
            let (names, folder) = (listed(&self.names), self.folder.display());
            warn(&format!("results of an earlier run are removed: {names} in {folder}"));
        }
        Ok(())
    }
}
