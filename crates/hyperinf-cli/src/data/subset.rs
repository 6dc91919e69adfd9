use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::table::{Format, contents, fingerprint};
use super::{Dataset, DatasetError, parquet};
use crate::error::CliError;
use hyperinf::store::{Staged, WriteError};

impl Dataset {
    /// Makes a file of some rows, given by their numbers in the file, in the file's own order and format.
    ///
    /// Lines of JSON and CSV records are copied byte by byte, the header too; Parquet keeps its schema and metadata.
    ///
    /// # Errors
    ///
    /// If the file was changed since it was read, or the output cannot be written.
    pub(crate) fn stage_rows<'a>(&self, rows: &BTreeSet<usize>, to: &'a Path) -> Result<Staged<'a>, CliError> {
        let input = |source| CliError::Dataset { set: self.set, path: self.path.clone(), source };
        let contents = contents(&self.path).map_err(input)?;
        if fingerprint(&contents) != self.xxh3_128 {
            return Err(input(DatasetError::Changed));
        }
        let write = |file: &mut std::fs::File| match self.format {
            Format::Parquet => parquet::write_rows(&self.path, rows, file),
            Format::Jsonl | Format::Delimited(_) => {
                let mut out = BufWriter::new(file);
                out.write_all(&contents[self.header.clone()])?;
                for &row in rows {
                    out.write_all(&contents[self.spans[row].clone()])?;
                }
                Ok::<(), WriteError>(out.flush()?)
            }
        };
        Ok(Staged::new(to, write)?)
    }
}
