use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, Write};

use serde_json::{Map, Value};

use crate::scores::ScoreTable;
use crate::stored_scores::{ScoresFault, StoredScores};
use crate::{Table, WriteError};

/// Writes the long form of scores; a CSV file has no place for metadata.
pub(crate) fn write_scores(
    file: &mut File,
    table: &ScoreTable<'_>,
    _metadata: &Map<String, Value>,
) -> Result<(), WriteError> {
    write(file, table.tables())
}

/// Writes tables with the same columns one below the other, under one header.
pub(crate) fn write<'a, T: Borrow<Table<'a>>>(
    file: impl Write,
    tables: impl Iterator<Item = io::Result<T>>,
) -> Result<(), WriteError> {
    let mut writer = csv::Writer::from_writer(file);
    for (i, table) in tables.enumerate() {
        let table = table?;
        let table = table.borrow();
        if i == 0 {
            writer.write_record(table.columns.iter().map(|(name, _)| *name))?;
        }
        for row in 0..table.rows() {
            writer.write_record(table.columns.iter().map(|(_, column)| column.text(row)))?;
        }
    }
    Ok(writer.flush()?)
}

/// Reads the long form of scores.
pub(crate) fn read_scores(file: File, found: &mut StoredScores) -> Result<(), ScoresFault> {
    let mut reader = csv::Reader::from_reader(file);
    let header = reader.headers()?.clone();
    let place = |name: &'static str| header.iter().position(|column| column == name);
    let column = |name| place(name).ok_or(ScoresFault::Column { column: name });
    let (query, score, std) = (column("query_id")?, column("score")?, place("score_std"));
    let train = column("train_id").or_else(|missing| place("group_id").ok_or(missing))?;
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record)? {
        let number = |place: usize| record[place].parse::<f32>().unwrap_or(f32::NAN);
        found.push(&record[query], &record[train], number(score), std.map(number))?;
    }
    Ok(())
}
