use std::io;
use std::path::{Path, PathBuf};

use hyperinf_data::RunError;
use hyperinf_eval::EvalError;
use hyperinf_models::{Panicked, read_regular};
use hyperinf_store::StoreError;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why results make no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The folder has no results.
    #[error("`{folder}` has no summary.json of attribute, detect or select{}", .nested.as_ref().map(|found| format!("; `{found}` has one")).unwrap_or_default())]
    NoSummary {
        /// The folder.
        folder: PathBuf,
        /// A folder in it that has results.
        nested: Option<String>,
    },
    /// The summary is of another command.
    #[error("`{path}` is the summary of `{command}`; expected that of {expected}")]
    Command {
        /// The summary.
        path: PathBuf,
        /// Its command.
        command: String,
        /// The commands that fit.
        expected: &'static str,
    },
    /// A file cannot be read.
    #[error("`{path}` cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than expected.
    #[error("`{path}` cannot be used")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A table cannot be read.
    #[error("the table `{path}` cannot be used")]
    Csv {
        /// The file.
        path: PathBuf,
        /// Why.
        source: csv::Error,
    },
    /// A table has no such column.
    #[error("the table `{path}` has no column `{column}`")]
    Column {
        /// The file.
        path: PathBuf,
        /// The column.
        column: &'static str,
    },
    /// A cell that is no number.
    #[error("`{value}` in the column `{column}` of `{path}`, row {row}, is no finite number")]
    Number {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The row, from 0.
        row: usize,
        /// What is there.
        value: String,
    },
    /// No scores are named.
    #[error("`{path}` names no file of scores among its outputs")]
    NoScores {
        /// The summary.
        path: PathBuf,
    },
    /// A data set is not where it was.
    #[error("the rows `{file}` are not there; give their present place")]
    NoRows {
        /// As the summary names it.
        file: String,
    },
    /// A data set was changed.
    #[error(
        "the rows in `{path}` were changed since they were scored: their XXH3 is {found}, in the summary {expected}"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// That of the summary.
        expected: String,
    },
    /// Rows and scores are not of the same samples.
    #[error("`{path}` has {found} rows, the scores have {expected}")]
    Count {
        /// The file.
        path: PathBuf,
        /// Its rows.
        found: usize,
        /// Those of the scores.
        expected: usize,
    },
    /// The ids of rows and scores differ.
    #[error("row {row} of `{path}` has the id `{found}`, in the scores it is `{expected}`")]
    Id {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// Its id.
        found: String,
        /// The id in the scores.
        expected: String,
    },
    /// A row that is known to be bad does not exist.
    #[error("line {line} of `{path}` names the row `{id}`, which has no score")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The id.
        id: String,
    },
    /// The rows that are known to be bad allow no curve.
    #[error("no curve of the rows that are known to be bad")]
    Detection(#[from] EvalError),
    /// A data set cannot be read.
    #[error(transparent)]
    Run(Box<RunError>),
    /// Scores cannot be read.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// A reader of files failed.
    #[error("`{path}` cannot be used")]
    Panicked {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Panicked,
    },
}

impl From<RunError> for ReportError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl From<StoreError> for ReportError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// Reads the summary of one of some commands; `expected` is their names in a sentence.
pub(crate) fn read_summary<T: DeserializeOwned>(
    path: &Path,
    commands: &[&str],
    expected: &'static str,
) -> Result<T, ReportError> {
    let value: Value = read_json(path)?;
    let command = value["command"].as_str().unwrap_or_default();
    if !commands.contains(&command) {
        return Err(ReportError::Command { path: path.to_owned(), command: command.to_owned(), expected });
    }
    serde_json::from_value(value).map_err(|source| ReportError::Json { path: path.to_owned(), source })
}

/// Reads a file of JSON.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ReportError> {
    let failed = |source| ReportError::File { path: path.to_owned(), source };
    let bytes = read_regular(path).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|source| ReportError::Json { path: path.to_owned(), source })
}
