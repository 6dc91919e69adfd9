use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};
use twox_hash::XxHash3_128;

use crate::{BadRow, DataError, Reason, delimited, jsonl, parquet};

/// The file name endings of the formats.
pub(crate) const ENDINGS: [&str; 6] = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"];

/// The format of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// A header and records, with this byte between their fields: CSV and TSV.
    Delimited(u8),
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The format of a file, by the ending of its name.
    ///
    /// # Errors
    ///
    /// [`DataError::Ending`] if no format has this ending.
    pub fn of(path: &Path) -> Result<Self, DataError> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("jsonl" | "ndjson" | "json") => Ok(Self::Jsonl),
            Some("csv") => Ok(Self::Delimited(b',')),
            Some("tsv") => Ok(Self::Delimited(b'\t')),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(DataError::Ending),
        }
    }
}

/// A file of rows as it was read, before any column has a meaning.
pub(crate) struct Table {
    pub(crate) format: Format,
    /// The names of all columns, in order.
    pub(crate) columns: Vec<String>,
    /// Columns of a type that is not read (binary, dates, …), with that type.
    pub(crate) unreadable: BTreeMap<String, String>,
    pub(crate) rows: Vec<RawRow>,
    /// The bytes of the header, before the first row.
    pub(crate) header: Range<usize>,
    /// The file's length.
    pub(crate) bytes: u64,
    /// XXH3 of the whole file, 128 bits.
    pub(crate) xxh3_128: String,
}

/// A row as it was read.
pub(crate) struct RawRow {
    /// The line where it begins, from 1; `None` for Parquet.
    pub(crate) line: Option<usize>,
    /// Its bytes in the file, including the line end; empty for Parquet.
    pub(crate) span: Range<usize>,
    /// Its values by column.
    pub(crate) cells: Result<Map<String, Value>, Reason>,
}

impl Table {
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let format = Format::of(path)?;
        let contents = contents(path)?;
        if contents.is_empty() {
            return Err(DataError::Empty);
        }
        let mut table = match format {
            Format::Jsonl => jsonl::read(&contents),
            Format::Delimited(delimiter) => delimited::read(&contents, delimiter)?,
            Format::Parquet => parquet::read(path)?,
        };
        if table.rows.is_empty() {
            return Err(DataError::Empty);
        }
        table.bytes = contents.len() as u64;
        table.xxh3_128 = fingerprint(&contents);
        Ok(table)
    }

    /// The reasons of all rows, if not a single row can be read.
    pub(crate) fn unreadable_rows(&self) -> Option<Vec<BadRow>> {
        let bad = |(row, raw): (usize, &RawRow)| {
            let reason = raw.cells.as_ref().err()?.clone();
            Some(BadRow { row, line: raw.line, reason })
        };
        self.rows.iter().enumerate().map(bad).collect()
    }
}

/// A column name that occurs twice.
pub(crate) fn duplicate(columns: &[String]) -> Option<String> {
    let repeated = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name));
    repeated.map(|(_, name)| name.clone())
}

/// The bytes of a regular file.
pub(crate) fn contents(path: &Path) -> Result<Vec<u8>, DataError> {
    // Opening a named pipe would wait for its other end.
    if !fs::metadata(path).map_err(DataError::Open)?.is_file() {
        return Err(DataError::NotRegular);
    }
    fs::read(path).map_err(DataError::Open)
}

/// XXH3 with 128 bits, in hexadecimal.
pub(crate) fn fingerprint(contents: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(contents))
}
