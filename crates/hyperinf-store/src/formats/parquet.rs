use std::borrow::Borrow;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::plain;
use crate::scores::ScoreTable;
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
    tables: impl Iterator<Item = T>,
    metadata: &Map<String, Value>,
) -> std::result::Result<(), WriteError> {
    let mut tables = tables.peekable();
    let mut fields = Vec::new();
    if let Some(first) = tables.peek() {
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
        let mut group = writer.next_row_group()?;
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
