use std::borrow::Borrow;
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

use crate::WriteError;
use crate::scores::plain;

/// Columns of equal length with their names.
#[derive(Clone, Debug)]
pub struct Table<'a> {
    columns: Vec<(&'a str, Column<'a>)>,
}

/// The values of a column.
#[derive(Clone, Debug)]
pub enum Column<'a> {
    /// Whole numbers.
    Whole(Vec<i64>),
    /// Real numbers.
    Real(Vec<f32>),
    /// Real numbers with all their digits.
    Double(Vec<f64>),
    /// Texts.
    Text(Vec<&'a str>),
    /// True or false.
    Truth(Vec<bool>),
}

impl<'a> Table<'a> {
    /// A table of these columns.
    ///
    /// # Panics
    ///
    /// If the columns differ in length.
    pub fn new(columns: Vec<(&'a str, Column<'a>)>) -> Self {
        let table = Self { columns };
        assert!(table.columns.iter().all(|(_, c)| c.len() == table.rows()), "columns of different length");
        table
    }

    fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }
}

impl Column<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Whole(values) => values.len(),
            Self::Real(values) => values.len(),
            Self::Double(values) => values.len(),
            Self::Text(values) => values.len(),
            Self::Truth(values) => values.len(),
        }
    }

    fn text(&self, row: usize) -> String {
        match self {
            Self::Whole(values) => values[row].to_string(),
            Self::Real(values) => values[row].to_string(),
            Self::Double(values) => values[row].to_string(),
            Self::Text(values) => values[row].to_owned(),
            Self::Truth(values) => values[row].to_string(),
        }
    }

    fn schema(&self, name: &str) -> Result<Type> {
        let (physical, converted) = match self {
            Self::Whole(_) => (Physical::INT64, ConvertedType::NONE),
            Self::Real(_) => (Physical::FLOAT, ConvertedType::NONE),
            Self::Double(_) => (Physical::DOUBLE, ConvertedType::NONE),
            Self::Text(_) => (Physical::BYTE_ARRAY, ConvertedType::UTF8),
            Self::Truth(_) => (Physical::BOOLEAN, ConvertedType::NONE),
        };
        Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::REQUIRED)
            .with_converted_type(converted)
            .build()
    }
}

/// Writes tables with the same columns one below the other, each as one row group.
pub(crate) fn parquet<'a, T: Borrow<Table<'a>>>(
    file: impl Write + Send,
    tables: impl Iterator<Item = T>,
    metadata: &Map<String, Value>,
) -> std::result::Result<(), WriteError> {
    let mut tables = tables.peekable();
    let mut fields = Vec::new();
    if let Some(first) = tables.peek() {
        for (name, column) in &first.borrow().columns {
            fields.push(Arc::new(column.schema(name)?));
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

/// Writes tables with the same columns one below the other, under one header.
pub(crate) fn csv<'a, T: Borrow<Table<'a>>>(
    file: impl Write,
    tables: impl Iterator<Item = T>,
) -> std::result::Result<(), WriteError> {
    let mut writer = csv::Writer::from_writer(file);
    for (i, table) in tables.enumerate() {
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
