use std::io;
use std::path::PathBuf;

use crate::{FileError, KeyDifference, StoreError};

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The folder has no manifest.
    #[error("`{path}` is not an index: it has no readable manifest.json")]
    NoIndex {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A later version wrote it.
    #[error("the index `{path}` has the schema {found}, this version reads up to {known}")]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its schema.
        found: u64,
        /// The latest one that is known.
        known: u32,
    },
    /// A file is not what was written.
    #[error("`{path}` is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it is known.
        reason: String,
    },
    /// It was built from something else.
    #[error("the index `{path}` does not belong to this run: {}", listed(.differences))]
    Differs {
        /// The folder.
        path: PathBuf,
        /// What differs.
        differences: Vec<KeyDifference>,
    },
    /// Its rows are not the first rows of the data.
    #[error(
        "the index `{path}` has other rows: those of its leaf {leaf}, {rows} rows from row {first} on, are not those of the data"
    )]
    Rows {
        /// The folder.
        path: PathBuf,
        /// The leaf.
        leaf: usize,
        /// Its first row.
        first: usize,
        /// The number of its rows.
        rows: usize,
    },
    /// A row that is added has the id of another one.
    #[error("the index `{path}` has a row with the id {id:?} already")]
    DuplicateId {
        /// The folder.
        path: PathBuf,
        /// The id.
        id: String,
    },
    /// Leaves are missing.
    #[error("the index `{path}` is not complete: {finished} of {leaves} leaves are finished")]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// Finished leaves.
        finished: usize,
        /// All of them.
        leaves: usize,
    },
    /// The gradients cannot be read.
    #[error("the gradients of the index `{path}` cannot be used")]
    Gradients {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: Box<FileError>,
    },
    /// A file cannot be read.
    #[error("`{path}` cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written, or the folder is another run's.
    #[error(transparent)]
    Write(#[from] StoreError),
}

fn listed(differences: &[KeyDifference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
