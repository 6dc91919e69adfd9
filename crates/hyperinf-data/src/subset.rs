use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use crate::table::{Format, contents, fingerprint};
use crate::{DataError, Dataset, SubsetError, parquet};

/// Some rows of a data set, to be written in the file's own order and format.
///
/// Lines of JSON and CSV records are copied byte by byte, and the header with them; Parquet keeps its schema,
/// metadata and compression.
#[derive(Debug)]
pub struct Subset<'a> {
    path: &'a Path,
    format: Format,
    rows: BTreeSet<usize>,
    contents: Vec<u8>,
    header: Range<usize>,
    spans: &'a [Range<usize>],
}

impl<C> Dataset<C> {
    /// The rows with these numbers in the file, from 0.
    ///
    /// # Errors
    ///
    /// [`DataError::Changed`] if the file was changed since it was read, or another one if it cannot be read.
    ///
    /// # Panics
    ///
    /// [`Subset::write`] panics if there is no such row.
    pub fn subset(&self, rows: BTreeSet<usize>) -> Result<Subset<'_>, DataError> {
        let contents = contents(&self.path)?;
        if fingerprint(&contents) != self.xxh3_128 {
            return Err(DataError::Changed);
        }
        let (path, format, header, spans) = (&*self.path, self.format, self.header.clone(), &*self.spans);
        Ok(Subset { path, format, rows, contents, header, spans })
    }
}

impl Subset<'_> {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the rows.
    ///
    /// # Errors
    ///
    /// If the output cannot be written, or a Parquet input cannot be read again.
    pub fn write(&self, file: &mut File) -> Result<(), SubsetError> {
        match self.format {
            Format::Parquet => parquet::write_rows(self.path, &self.rows, file),
            Format::Jsonl | Format::Delimited(_) => {
                let mut out = BufWriter::new(file);
                out.write_all(&self.contents[self.header.clone()])?;
                for &row in &self.rows {
                    out.write_all(&self.contents[self.spans[row].clone()])?;
                }
                Ok(out.flush()?)
            }
        }
    }
}
