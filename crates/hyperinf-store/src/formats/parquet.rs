use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::plain;
use crate::scores::ScoreTable;
use crate::stored_scores::{ScoresFault, StoredScores};
use crate::{Column, Table, WriteError};

/// Writes the long form of scores.
pub(crate) fn write_scores(
    file: &mut File,
    table: &ScoreTable<'_>,
    metadata: &Map<String, Value>,
) -> std::result::Result<(), WriteError> {
    write(file, table.tables(), metadata)
}

/// Writes tables with the same columns one below the other, each as one row group.
pub(crate) fn write<'a, T: Borrow<Table<'a>>>(
    file: impl Write + Send,
    tables: impl Iterator<Item = io::Result<T>>,
    metadata: &Map<String, Value>,
) -> std::result::Result<(), WriteError> {
    let mut tables = tables.peekable();
    let mut fields = Vec::new();
    if let Some(Ok(first)) = tables.peek() {
        for (name, column) in &first.borrow().columns {
            fields.push(Arc::new(schema(name, column)?));
        }
    }
    let schema = Type::group_type_builder("scores").with_fields(fields).build()?;
    let pairs = metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), plain(value)));
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(concat!("hyperinf ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(pairs.collect()))
        .build();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))?;
    for table in tables {
        let (table, mut group) = (table?, writer.next_row_group()?);
        for (_, column) in &table.borrow().columns {
            match column {
                Column::Whole(values) => write_column::<Int64Type, _>(&mut group, values)?,
                Column::Real(values) => write_column::<FloatType, _>(&mut group, values)?,
                Column::Double(values) => write_column::<DoubleType, _>(&mut group, values)?,
                Column::Truth(values) => write_column::<BoolType, _>(&mut group, values)?,
                Column::Text(values) => {
                    let values: Vec<ByteArray> = values.iter().map(|&text| text.into()).collect();
                    write_column::<ByteArrayType, _>(&mut group, &values)?;
                }
            }
        }
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

fn write_column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
) -> Result<()> {
    let mut column = group.next_column()?.expect("the schema was made from these columns");
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}

fn schema(name: &str, column: &Column<'_>) -> Result<Type> {
    let (physical, converted) = match column {
        Column::Whole(_) => (Physical::INT64, ConvertedType::NONE),
        Column::Real(_) => (Physical::FLOAT, ConvertedType::NONE),
        Column::Double(_) => (Physical::DOUBLE, ConvertedType::NONE),
        Column::Text(_) => (Physical::BYTE_ARRAY, ConvertedType::UTF8),
        Column::Truth(_) => (Physical::BOOLEAN, ConvertedType::NONE),
    };
    Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::REQUIRED)
        .with_converted_type(converted)
        .build()
}

/// Reads the long form of scores.
pub(crate) fn read_scores(file: File, found: &mut StoredScores) -> std::result::Result<(), ScoresFault> {
    let reader = SerializedFileReader::new(file)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let place = |name: &str| schema.columns().iter().position(|column| column.name() == name);
    let column = |name| place(name).ok_or(ScoresFault::Column { column: name });
    let (query, score, std) = (column("query_id")?, column("score")?, place("score_std"));
    let train = column("train_id").or_else(|missing| place("group_id").ok_or(missing))?;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group)?;
        let (queries, trains) = (texts(&*group, query, "query_id")?, texts(&*group, train, "train_id")?);
        let scores = reals(&*group, score, "score")?;
        let bars = std.map(|std| reals(&*group, std, "score_std")).transpose()?;
        let rows = scores.len();
        for other in [queries.len(), trains.len(), bars.as_ref().map_or(rows, Vec::len)] {
            if other != rows {
                return Err(ScoresFault::Ids { found: other, expected: rows });
            }
        }
        for row in 0..rows {
            found.push(&queries[row], &trains[row], scores[row], bars.as_ref().map(|bars| bars[row]))?;
        }
    }
    Ok(())
}

/// A column of ids, as texts.
fn texts(
    group: &dyn RowGroupReader,
    place: usize,
    column: &'static str,
) -> std::result::Result<Vec<String>, ScoresFault> {
    match group.get_column_reader(place)? {
        ColumnReader::Int64ColumnReader(reader) => Ok(values(group, reader)?.iter().map(ToString::to_string).collect()),
        ColumnReader::ByteArrayColumnReader(reader) => {
            let text = |value: ByteArray| value.as_utf8().map(str::to_owned);
            Ok(values(group, reader)?.into_iter().map(text).collect::<Result<_>>()?)
        }
        _ => Err(ScoresFault::Type { column, expected: "whole numbers or texts" }),
    }
}

fn reals(group: &dyn RowGroupReader, place: usize, column: &'static str) -> std::result::Result<Vec<f32>, ScoresFault> {
    match group.get_column_reader(place)? {
        ColumnReader::FloatColumnReader(reader) => Ok(values(group, reader)?),
        ColumnReader::DoubleColumnReader(reader) => {
            Ok(values(group, reader)?.into_iter().map(|value| value as f32).collect())
        }
        _ => Err(ScoresFault::Type { column, expected: "real numbers" }),
    }
}

fn values<T: DataType>(group: &dyn RowGroupReader, mut reader: ColumnReaderImpl<T>) -> Result<Vec<T::T>> {
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    let (mut values, mut definitions) = (Vec::new(), Vec::new());
    while values.len() < rows {
        let (records, _, _) = reader.read_records(rows - values.len(), Some(&mut definitions), None, &mut values)?;
        if records == 0 {
            break;
        }
    }
    Ok(values)
}
