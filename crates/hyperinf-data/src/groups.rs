use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::columns::{Cells, Columns, Header};
use crate::dataset::ReadOptions;
use crate::error::DataError;
use crate::influence::Rows;
use crate::table::Table;
use crate::{BadRow, RunError};

/// The most rows of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerGroup {
    /// Their number.
    pub most: usize,
    /// The column of the training rows whose values are the groups; `None` for the label.
    pub column: Option<String>,
}

/// The number of each row's group, in the order in which groups first appear.
pub(crate) fn groups(rows: &Rows, per_group: &PerGroup, read: &ReadOptions) -> Result<Vec<usize>, RunError> {
    let names: Vec<String> = match &per_group.column {
        Some(column) => {
            let mut all = column_of(rows, column, read).map_err(RunError::data(&rows.data))?;
            rows.data.rows.iter().map(|row| std::mem::take(&mut all[row.row])).collect()
        }
        None => {
            let labels = rows.data.rows.iter().map(|row| row.content.label.clone()).collect::<Option<_>>();
            labels.ok_or_else(|| RunError::NoGroups { path: rows.data.path.clone() })?
        }
    };
    let mut numbers: HashMap<String, usize> = HashMap::new();
    Ok(names
        .into_iter()
        .map(|name| {
            let next = numbers.len();
            *numbers.entry(name).or_insert(next)
        })
        .collect())
}

/// The values of a column, one per row of the file; those of rows that are not in use may be missing.
fn column_of(rows: &Rows, column: &str, read: &ReadOptions) -> Result<Vec<String>, DataError> {
    let table = Table::open(&rows.data.path, read)?;
    if table.xxh3_128 != rows.data.xxh3_128 {
        return Err(DataError::Changed);
    }
    let name = Header::new(&table, &read.columns).named("group", &Some(column.to_owned()))?;
    let columns = Columns::new(&table, Vec::new(), name)?;
    let wanted = columns.read();
    let (mut values, mut bad, mut used) = (Vec::new(), Vec::new(), rows.data.rows.iter().map(|row| row.row).peekable());
    table.visit(&wanted, &mut |raw| {
        let (row, line) = (values.len(), raw.line);
        let folder = std::path::Path::new("");
        let value = raw.cells.and_then(|values| Cells { columns: &wanted, values: &values, folder }.name(column));
        let in_use = used.next_if_eq(&row).is_some();
        match value {
            Ok(value) => values.push(value),
            Err(reason) => {
                values.push(String::new());
                if in_use {
                    bad.push(BadRow { row, line, reason });
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    if bad.is_empty() { Ok(values) } else { Err(DataError::bad_rows(bad, rows.data.total, false)) }
}
