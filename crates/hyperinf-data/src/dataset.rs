use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hyperinf_scoring::Set;
use rayon::prelude::*;

use crate::columns::{Cells, ColumnOptions, Columns, Header, Role};
use crate::images::ImageSource;
use crate::table::{Format, Layout, Table};
use crate::{BadRow, DataError, Reason};

/// Options for reading rows.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `columns` | all `None` | columns whose names are not the usual ones |
/// | `skip_bad_rows` | `false` | rows that cannot be used are listed in [`Dataset::bad`] instead of being an error |
/// | `unpacked` | `None` | the most bytes that the columns in use of a Parquet file may unpack to; `None`: 192 MiB and 10 × its size |
/// | `images` | `None` | where relative paths of images begin; `None`: the folder of the file |
/// | `one_tile` | `false` | an image is one tile, whatever its size: fewer tokens (Idefics3, SmolVLM) |
/// | `features` | `None` | a folder for what frozen parts of a model compute of images, which several runs may share; `None`: that of the adapter's training, else of the run |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The columns.
    pub columns: ColumnOptions,
    /// Whether rows that cannot be used are skipped.
    pub skip_bad_rows: bool,
    /// The most bytes that the columns in use of a Parquet file may unpack to.
    pub unpacked: Option<u64>,
    /// Where relative paths of images begin.
    pub images: Option<PathBuf>,
    /// Whether an image is one tile, whatever its size.
    pub one_tile: bool,
    /// A folder for what frozen parts of a model compute of images.
    pub features: Option<PathBuf>,
}

/// The content of a row, as one kind of model needs it.
pub trait Content: Clone + std::fmt::Debug + PartialEq + Sync {
    /// The columns that hold its parts.
    type Columns;

    /// Chooses the columns.
    ///
    /// # Errors
    ///
    /// [`DataError::NoColumn`] or [`DataError::Columns`] if one is missing.
    fn columns(header: &Header<'_>) -> Result<Self::Columns, DataError>;

    /// The chosen columns with the parts that they hold: all columns that [`Content::read`] reads.
    fn roles(columns: &Self::Columns) -> Vec<Role>;

    /// Reads a row.
    ///
    /// # Errors
    ///
    /// If a cell is missing, empty or of another type.
    fn read(columns: &Self::Columns, cells: Cells<'_>) -> Result<Self, Reason>;

    /// The content as one text for people.
    fn text(&self) -> String;

    /// The label, for content that has one.
    fn label(&self) -> Option<&str> {
        None
    }

    /// The images, for content that has some.
    fn images(&self) -> &[ImageSource] {
        &[]
    }
}

/// A row that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<C> {
    /// Its number in the file, from 0.
    pub row: usize,
    /// The line where it begins, from 1; `None` for Parquet.
    pub line: Option<usize>,
    /// Its id, if there is an id column.
    pub id: Option<String>,
    /// What it holds.
    pub content: C,
}

/// The rows of a file.
///
/// Row ids are stable and nothing is skipped silently: a row that cannot be used is an error with its place and
/// reason, or, where bad rows are skipped, listed in [`Dataset::bad`]. The id of a row is its number in the file,
/// from 0, or its value in the id column.
#[derive(Clone, Debug)]
pub struct Dataset<C> {
    /// Its use, for error messages.
    pub set: Set,
    /// The file.
    pub path: PathBuf,
    /// The file's format.
    pub format: Format,
    /// The columns in use.
    pub columns: Columns,
    /// The rows that can be used, in order.
    pub rows: Vec<Row<C>>,
    /// The rows that cannot, in order; empty unless they are skipped.
    pub bad: Vec<BadRow>,
    /// The number of all rows of the file.
    pub total: usize,
    /// The file's length.
    pub bytes: u64,
    /// XXH3 of the whole file, 128 bits.
    pub xxh3_128: String,
    /// Where the rows are in the file.
    pub(crate) layout: Layout,
}

impl<C: Content> Dataset<C> {
    /// Reads a file: `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` or `.parquet`; or a folder of images, as `datasets`
    /// does: its `metadata.jsonl`, `metadata.csv` or `metadata.parquet` with a column `file_name`, or else the columns
    /// `file_name` and `label` of the images in folders that are named after their class.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, lacks a column, or has a row that cannot be used while bad rows are not skipped.
    pub fn read(set: Set, path: &Path, options: &ReadOptions) -> Result<Self, DataError> {
        let table = Table::open(path, options)?;
        if let Some(bad) = table.unreadable_rows() {
            // Without a readable row the table has no columns to complain about.
            return Err(DataError::bad_rows(bad, table.rows(), options.skip_bad_rows));
        }
        let header = Header::new(&table, &options.columns);
        let id = header.named("id", &options.columns.id)?;
        let content = C::columns(&header)?;
        let roles = C::roles(&content);
        options.columns.check_used(&roles)?;
        let columns = Columns::new(&table, roles, id)?;
        let wanted = columns.read();
        let folder = options.images.as_deref().unwrap_or(&table.folder);
        let (mut rows, mut bad) = (Vec::new(), Vec::new());
        let (mut row, mut ids): (usize, HashMap<String, usize>) = Default::default();
        table.visit(&wanted, &mut |raw| {
            let line = raw.line;
            let read = raw.cells.and_then(|values| {
                let cells = Cells { columns: &wanted, values: &values, folder };
                let content = C::read(&content, cells)?;
                let id = columns.id.as_ref().map(|column| cells.name(column)).transpose()?;
                if let Some(id) = &id {
                    let first = *ids.entry(id.clone()).or_insert(row);
                    if first != row {
                        return Err(Reason::Duplicate { id: id.clone(), first });
                    }
                }
                Ok(Row { row, line, id, content })
            });
            match read {
                Ok(row) => rows.push(row),
                Err(reason) => bad.push(BadRow { row, line, reason }),
            }
            row += 1;
            ControlFlow::Continue(())
        })?;
        let (path, total) = (path.to_owned(), row);
        let Table { format, layout, bytes, xxh3_128, .. } = table;
        let set = Self { set, path, format, columns, rows, bad, total, bytes, xxh3_128, layout };
        set.checked(options.skip_bad_rows)
    }

    /// Converts each row; rows that cannot be converted become bad rows.
    ///
    /// # Errors
    ///
    /// If a row is bad and bad rows are not skipped, or all rows are bad.
    pub fn convert<T>(
        self,
        skip_bad_rows: bool,
        convert: impl FnMut(&Row<C>) -> Result<T, Reason>,
    ) -> Result<(Self, Vec<T>), DataError> {
        let found = self.rows.iter().map(convert).collect();
        self.converted(skip_bad_rows, found)
    }

    /// As [`convert`](Self::convert), on all cores; the result is the same.
    ///
    /// # Errors
    ///
    /// As [`convert`](Self::convert).
    pub fn convert_at_once<T: Send>(
        self,
        skip_bad_rows: bool,
        convert: impl Fn(&Row<C>) -> Result<T, Reason> + Sync,
    ) -> Result<(Self, Vec<T>), DataError> {
        let found = self.rows.par_iter().map(&convert).collect();
        self.converted(skip_bad_rows, found)
    }

    fn converted<T>(mut self, skip_bad_rows: bool, found: Vec<Result<T, Reason>>) -> Result<(Self, Vec<T>), DataError> {
        let mut values = Vec::with_capacity(self.rows.len());
        let mut rows = Vec::with_capacity(self.rows.len());
        for (row, found) in std::mem::take(&mut self.rows).into_iter().zip(found) {
            match found {
                Ok(value) => {
                    values.push(value);
                    rows.push(row);
                }
                Err(reason) => self.bad.push(BadRow { row: row.row, line: row.line, reason }),
            }
        }
        self.rows = rows;
        self.bad.sort_by_key(|bad| bad.row);
        Ok((self.checked(skip_bad_rows)?, values))
    }

    fn checked(mut self, skip_bad_rows: bool) -> Result<Self, DataError> {
        if self.bad.is_empty() || skip_bad_rows && !self.rows.is_empty() {
            return Ok(self);
        }
        Err(DataError::bad_rows(std::mem::take(&mut self.bad), self.total, skip_bad_rows))
    }
}

impl<C> Dataset<C> {
    /// The same data set with other contents.
    pub(crate) fn map<D>(self, mut convert: impl FnMut(C) -> D) -> Dataset<D> {
        let Self { set, path, format, columns, rows, bad, total, bytes, xxh3_128, layout } = self;
        let row = |Row { row, line, id, content }| Row { row, line, id, content: convert(content) };
        let rows = rows.into_iter().map(row).collect();
        Dataset { set, path, format, columns, rows, bad, total, bytes, xxh3_128, layout }
    }
}
