use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};
use twox_hash::XxHash3_128;

use super::{BadRow, DatasetError, Reason, delimited, jsonl, parquet};

/// The endings of the formats.
pub(super) const ENDINGS: [&str; 6] = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"];

/// The format of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// A header and records, with this between their fields.
    Delimited(u8),
    /// Columns in the Parquet format.
    Parquet,
}

impl Format {
    /// The format by the ending of a file's name.
    ///
    /// # Errors
    ///
    /// If the ending is none of them.
    pub fn of(path: &Path) -> Result<Self, DatasetError> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("jsonl" | "ndjson" | "json") => Ok(Self::Jsonl),
            Some("csv") => Ok(Self::Delimited(b',')),
            Some("tsv") => Ok(Self::Delimited(b'\t')),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(DatasetError::Ending),
        }
    }
}

/// A file of rows, as it is.
pub(super) struct Table {
    pub(super) format: Format,
    /// The names of all columns, in order.
    pub(super) columns: Vec<String>,
    /// Columns whose values are neither texts nor numbers nor lists of them, with their type.
    pub(super) unreadable: BTreeMap<String, String>,
    pub(super) rows: Vec<RawRow>,
    /// Bytes before the first row: the header.
    pub(super) header: Range<usize>,
    /// The file's length.
    pub(super) bytes: u64,
    /// XXH3 of the whole file, 128 bits.
    pub(super) xxh3_128: String,
}

/// A row as it is in the file.
pub(super) struct RawRow {
    /// The line where it begins, from 1.
    pub(super) line: Option<usize>,
    /// Its bytes in the file, the line end included; empty for Parquet.
    pub(super) span: Range<usize>,
    /// Its values by column.
    pub(super) cells: Result<Map<String, Value>, Reason>,
}

impl Table {
    pub(super) fn open(path: &Path) -> Result<Self, DatasetError> {
        let format = Format::of(path)?;
        let contents = contents(path)?;
        if contents.is_empty() {
            return Err(DatasetError::Empty);
        }
        let mut table = match format {
            Format::Jsonl => jsonl::read(&contents),
            Format::Delimited(delimiter) => delimited::read(&contents, delimiter)?,
            Format::Parquet => parquet::read(path)?,
        };
        if table.rows.is_empty() {
            return Err(DatasetError::Empty);
        }
        table.bytes = contents.len() as u64;
        table.xxh3_128 = fingerprint(&contents);
        Ok(table)
    }
}

impl Table {
    /// All rows, if not a single one can be read.
    pub(super) fn unreadable_rows(&self) -> Option<Vec<BadRow>> {
        let bad = |(row, raw): (usize, &RawRow)| {
            let reason = raw.cells.as_ref().err()?.clone();
            Some(BadRow { row, line: raw.line, reason })
        };
        self.rows.iter().enumerate().map(bad).collect()
    }
}

/// A column whose name another has.
pub(super) fn twice(columns: &[String]) -> Option<String> {
    let repeated = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name));
    repeated.map(|(_, name)| name.clone())
}

/// A whole file.
pub(super) fn contents(path: &Path) -> Result<Vec<u8>, DatasetError> {
    // Opening a named pipe would wait for its other end.
    if !fs::metadata(path).map_err(DatasetError::Open)?.is_file() {
        return Err(DatasetError::NotRegular);
    }
    fs::read(path).map_err(DatasetError::Open)
}

pub(super) fn fingerprint(contents: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(contents))
}
