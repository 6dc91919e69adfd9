use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};

use bytes::Bytes;

use crate::table::{Format, Layout, contents, fingerprint};
use crate::{DataError, Dataset, SubsetError, parquet};

/// Some rows of a data set, to be written in the file's own order and format.
///
/// Lines of JSON, elements of a JSON array and CSV records are copied byte by byte, with whatever columns they have, and
/// the header with them; Parquet keeps its schema, metadata and compression.
#[derive(Debug)]
pub struct Subset<'a> {
    format: Format,
    rows: BTreeSet<usize>,
    contents: Bytes,
    layout: &'a Layout,
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
        let contents = Bytes::from(contents(&self.path)?);
        if fingerprint(&contents) != self.xxh3_128 {
            return Err(DataError::Changed);
        }
        Ok(Subset { format: self.format, rows, contents, layout: &self.layout })
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
        let Layout { header, spans, footer } = self.layout;
        if self.format == Format::Parquet {
            return parquet::write_rows(&self.contents, &self.rows, file);
        }
        // Elements of an array are separated as its first two are.
        let between = match (self.format, &spans[..]) {
            (Format::JsonArray, [first, second, ..]) => first.end..second.start,
            _ => 0..0,
        };
        let mut out = BufWriter::new(file);
        out.write_all(&self.contents[header.clone()])?;
        for (place, &row) in self.rows.iter().enumerate() {
            if place > 0 {
                out.write_all(&self.contents[between.clone()])?;
            }
            out.write_all(&self.contents[spans[row].clone()])?;
        }
        out.write_all(&self.contents[footer.clone()])?;
        Ok(out.flush()?)
    }
}
