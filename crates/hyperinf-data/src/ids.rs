use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use hyperinf_store::IdColumn;

use crate::columns::{Cells, ColumnOptions, Columns, Header};
use crate::table::{Format, Table, contents};
use crate::{DataError, ReadOptions, Reason};

/// The usual column of ids.
const USUAL: &str = "id";

/// Why a file does not give the ids of samples.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The file cannot be read, or lacks the column.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A text file that is not UTF-8.
    #[error("it is not UTF-8: byte {byte} of the file")]
    Utf8 {
        /// The place of the first such byte, from 0.
        byte: usize,
    },
    /// A text file has no columns.
    #[error("it is a text file with one id per line, and has no column `{column}`")]
    NoColumn {
        /// The column that was named.
        column: String,
    },
    /// A row or line without an id.
    #[error("{place}: {reason}")]
    Row {
        /// The row or the line.
        place: String,
        /// Why.
        reason: Reason,
    },
    /// A line without an id.
    #[error("line {line} has no id: every line is the id of one sample")]
    Empty {
        /// The line, from 1.
        line: usize,
    },
    /// Two samples with the same id.
    #[error("the id `{id}` is that of sample {first} and of sample {second}")]
    Duplicate {
        /// The id.
        id: String,
        /// The first sample, from 0.
        first: usize,
        /// The second.
        second: usize,
    },
    /// Not one id per sample.
    #[error("it has {found} ids, but there are {expected} samples")]
    Count {
        /// Ids found.
        found: usize,
        /// Samples.
        expected: usize,
    },
}

/// The ids of samples that come without rows, such as those of gradient files: one per line of a text file, or a
/// column of a data set, `id` unless another is named.
///
/// The `i`-th id is that of sample `i`.
///
/// # Errors
///
/// If the file cannot be read, lacks the column, has not exactly one id per sample, or has one twice.
pub fn sample_ids(path: &Path, column: Option<&str>, samples: usize) -> Result<IdColumn, IdError> {
    let ids = match (Format::of(path), column) {
        (Ok(_), column) => of_table(path, column.unwrap_or(USUAL))?,
        (Err(_), None) => of_lines(path)?,
        (Err(_), Some(column)) => return Err(IdError::NoColumn { column: column.to_owned() }),
    };
    if ids.len() != samples {
        return Err(IdError::Count { found: ids.len(), expected: samples });
    }
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(ids.len());
    for (second, id) in ids.iter().enumerate() {
        if let Some(first) = places.insert(id, second) {
            return Err(IdError::Duplicate { id: id.clone(), first, second });
        }
    }
    Ok(IdColumn::Names(ids))
}

fn of_lines(path: &Path) -> Result<Vec<String>, IdError> {
    let text = String::from_utf8(contents(path)?);
    let text = text.map_err(|error| IdError::Utf8 { byte: error.utf8_error().valid_up_to() })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    match text.lines().position(|line| line.trim().is_empty()) {
        Some(line) => Err(IdError::Empty { line: line + 1 }),
        None => Ok(text.lines().map(str::to_owned).collect()),
    }
}

fn of_table(path: &Path, column: &str) -> Result<Vec<String>, IdError> {
    let table = Table::open(path, &ReadOptions::default())?;
    let options = ColumnOptions::default();
    let id = Header::new(&table, &options).named("id", &Some(column.to_owned()))?;
    let columns = Columns::new(&table, Vec::new(), id)?;
    let wanted = columns.read();
    let (mut ids, mut failed) = (Vec::new(), None);
    table.visit(&wanted, &mut |row| {
        let id = row
            .cells
            .and_then(|values| Cells { columns: &wanted, values: &values, folder: Path::new("") }.name(column));
        match id {
            Ok(id) => ids.push(id),
            Err(reason) => {
                let place = row.line.map_or_else(|| format!("row {}", ids.len()), |line| format!("line {line}"));
                failed = Some(IdError::Row { place, reason });
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(ids), Err)
}
