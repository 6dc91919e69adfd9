use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::scores::ScoreTable;
use crate::stored_scores::{ScoresFault, StoredScores};
use crate::{Column, Table, WriteError};

/// Writes the long form of scores, one JSON object per line; JSON lines have no place for metadata.
pub(crate) fn write_scores(
    file: &mut File,
    table: &ScoreTable<'_>,
    _metadata: &Map<String, Value>,
) -> Result<(), WriteError> {
    let mut out = BufWriter::new(file);
    for table in table.tables() {
        write(&mut out, &table?)?;
    }
    Ok(out.flush()?)
}

/// Writes a table, one JSON object per row.
pub(crate) fn write(out: &mut impl Write, table: &Table<'_>) -> Result<(), WriteError> {
    for row in 0..table.rows() {
        let object: Map<String, Value> =
            table.columns.iter().map(|(name, column)| ((*name).to_owned(), value(column, row))).collect();
        serde_json::to_writer(&mut *out, &object)?;
        writeln!(out)?;
    }
    Ok(())
}

/// The value in a row; an `f32` has its own digits, not those of the nearest `f64`.
fn value(column: &Column<'_>, row: usize) -> Value {
    match column {
        Column::Whole(values) => values[row].into(),
        Column::Real(values) => values[row].to_string().parse::<f64>().map_or(Value::Null, Value::from),
        Column::Double(values) => values[row].into(),
        Column::Text(values) => values[row].into(),
        Column::Truth(values) => values[row].into(),
    }
}

/// A line of the long form.
#[derive(Deserialize)]
struct Line {
    query_id: Value,
    #[serde(alias = "group_id")]
    train_id: Value,
    score: f32,
    score_std: Option<f32>,
}

/// Reads the long form of scores.
pub(crate) fn read_scores(file: File, found: &mut StoredScores) -> Result<(), ScoresFault> {
    for line in BufReader::new(file).lines() {
        let Line { query_id, train_id, score, score_std } = serde_json::from_str(&line?)?;
        found.push(&super::plain(&query_id), &super::plain(&train_id), score, score_std)?;
    }
    Ok(())
}
