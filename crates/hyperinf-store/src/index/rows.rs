use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::{IndexError, Record};

/// A row of an index: a line of a leaf's `.rows.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRow {
    /// Its number among all rows of the index's files, from 0.
    pub row: usize,
    /// Its id, if there is an id column.
    pub id: Option<String>,
    /// Its content as one text.
    pub text: String,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// The bits of its loss as f64: decimal text may round it.
    pub loss_bits: u64,
    /// What a classifier predicts for it.
    pub guess: Option<StoredGuess>,
}

/// The likeliest class of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredGuess {
    /// The class of its label.
    pub label: usize,
    /// The likeliest class.
    pub class: usize,
    /// The bits of its probability as f64.
    pub probability_bits: u64,
}

impl StoredRow {
    /// The loss in nats.
    pub fn loss(&self) -> f64 {
        f64::from_bits(self.loss_bits)
    }
}

/// The rows of a leaf.
pub(super) fn read(folder: &Path, record: &Record, rows: usize) -> Result<Vec<StoredRow>, IndexError> {
    let places: Vec<usize> = (0..rows).collect();
    read_some(folder, record, rows, &places)
}

/// Some rows of a leaf, in the order of `places`: the others are checked, but not parsed.
pub(super) fn read_some(
    folder: &Path,
    record: &Record,
    rows: usize,
    places: &[usize],
) -> Result<Vec<StoredRow>, IndexError> {
    let path = folder.join(&record.rows_file);
    let failed = |source: io::Error| IndexError::Read { path: path.clone(), source };
    let damaged = |reason: String| IndexError::Damaged { path: path.clone(), reason };
    let file = File::open(&path).map_err(failed)?;
    let entry = file.metadata().map_err(failed)?;
    if !entry.is_file() || entry.len() != record.rows_bytes {
        return Err(damaged(format!("it has {} bytes, expected {}", entry.len(), record.rows_bytes)));
    }
    let mut bytes = Vec::new();
    file.take(record.rows_bytes).read_to_end(&mut bytes).map_err(failed)?;
    if format!("{:032x}", XxHash3_128::oneshot(&bytes)) != record.rows_xxh3_128 {
        return Err(damaged("its hash is not that of the journal".into()));
    }
    let lines: Vec<&[u8]> = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|&byte| byte == b'\n').collect();
    let found = if bytes.is_empty() { 0 } else { lines.len() };
    if found != rows {
        return Err(damaged(format!("it has {found} rows, expected {rows}")));
    }
    let parse = |&place: &usize| serde_json::from_slice(lines[place]).map_err(|error| damaged(error.to_string()));
    places.iter().map(parse).collect()
}
