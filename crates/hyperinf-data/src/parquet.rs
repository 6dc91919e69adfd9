use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::basic::Compression;
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrowPrimitiveType, BooleanArray, GenericListArray, OffsetSizeTrait, PrimitiveArray, RecordBatch,
};
use arrow_schema::DataType;
use arrow_select::filter::filter_record_batch;
use serde_json::{Map, Value};

use crate::table::{Format, RawRow, Table, duplicate};
use crate::{DataError, SubsetError};

/// The metadata key of Arrow's own schema, which Arrow's writer adds itself.
const ARROW_SCHEMA: &str = "ARROW:schema";

/// All rows, with the columns of texts, numbers, booleans, and lists and structs of these.
pub(crate) fn read(path: &Path) -> Result<Table, DataError> {
    let builder = open(path)?;
    let schema = builder.schema().clone();
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    if let Some(column) = duplicate(&columns) {
        return Err(DataError::DuplicateColumn { column });
    }
    let unreadable: BTreeMap<String, String> = (schema.fields().iter())
        .filter(|field| !readable(field.data_type()))
        .map(|field| (field.name().clone(), field.data_type().to_string()))
        .collect();
    let mut rows = Vec::new();
    for batch in batches(builder)? {
        let batch = batch?;
        let mut cells = vec![Map::new(); batch.num_rows()];
        for (name, column) in columns.iter().zip(batch.columns()) {
            if unreadable.contains_key(name) {
                continue;
            }
            for (cells, value) in cells.iter_mut().zip(values(column)) {
                cells.insert(name.clone(), value);
            }
        }
        rows.extend(cells.into_iter().map(|cells| RawRow { line: None, span: 0..0, cells: Ok(cells) }));
    }
    let format = Format::Parquet;
    Ok(Table { format, columns, unreadable, rows, header: 0..0, bytes: 0, xxh3_128: String::new() })
}

/// Writes the kept rows of a file in its order, with its schema, metadata and compression.
pub(crate) fn write_rows(path: &Path, kept: &BTreeSet<usize>, to: &mut File) -> Result<(), SubsetError> {
    let builder = open(path)?;
    let compression = builder.metadata().row_groups().iter().flat_map(|group| group.columns()).map(|c| c.compression());
    let metadata = builder.metadata().file_metadata().key_value_metadata().cloned();
    let metadata = metadata.map(|pairs| pairs.into_iter().filter(|pair| pair.key != ARROW_SCHEMA).collect());
    let properties = WriterProperties::builder()
        .set_compression(compression.into_iter().next().unwrap_or(Compression::SNAPPY))
        .set_key_value_metadata(metadata)
        .build();
    let mut writer =
        ArrowWriter::try_new(to, builder.schema().clone(), Some(properties)).map_err(SubsetError::Parquet)?;
    let mut row = 0;
    for batch in batches(builder)? {
        let batch = batch?;
        let kept: BooleanArray = (row..row + batch.num_rows()).map(|row| Some(kept.contains(&row))).collect();
        let batch = filter_record_batch(&batch, &kept).map_err(SubsetError::Arrow)?;
        writer.write(&batch).map_err(SubsetError::Parquet)?;
        row += batch.num_rows();
    }
    writer.close().map_err(SubsetError::Parquet)?;
    Ok(())
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, DataError> {
    let file = File::open(path).map_err(DataError::Open)?;
    let length = file.metadata().map_err(DataError::Open)?.len();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    for column in builder.metadata().row_groups().iter().flat_map(|group| group.columns()) {
        // The Parquet library trusts these numbers.
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let range = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
        let end = range.and_then(|(start, size)| start.checked_add(size));
        if end.is_none_or(|end| end > length) {
            return Err(DataError::Chunk { column: column.column_path().string() });
        }
        let codec = match column.compression() {
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) => continue,
            Compression::ZSTD(_) => "ZSTD".to_owned(),
            Compression::BROTLI(_) => "BROTLI".to_owned(),
            other => other.to_string(),
        };
        return Err(DataError::Codec { column: column.column_path().string(), codec });
    }
    Ok(builder)
}

/// The rows of a file in record batches.
fn batches(
    builder: ParquetRecordBatchReaderBuilder<File>,
) -> Result<impl Iterator<Item = Result<RecordBatch, DataError>>, DataError> {
    let mut reader = builder.build()?;
    let mut over = false;
    Ok(iter::from_fn(move || {
        if over {
            return None;
        }
        // A damaged page can make the library divide by zero.
        match catch_unwind(AssertUnwindSafe(|| reader.next())) {
            Ok(batch) => batch.map(|batch| batch.map_err(DataError::from)),
            Err(_) => {
                over = true;
                Some(Err(ParquetError::General("a page contradicts itself".into()).into()))
            }
        }
    }))
}

fn readable(kind: &DataType) -> bool {
    match kind {
        DataType::List(field) | DataType::LargeList(field) => readable(field.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| readable(field.data_type())),
        DataType::Dictionary(_, value) => readable(value),
        DataType::Float16 => false,
        other => {
            matches!(other, DataType::Null | DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8)
                || *other == DataType::Utf8View
                || other.is_integer()
                || other.is_floating()
        }
    }
}

/// One value per row, null where it is missing.
fn values(array: &dyn Array) -> Vec<Value> {
    match array.data_type() {
        DataType::Boolean => array.as_boolean().iter().map(Value::from).collect(),
        DataType::Utf8 => array.as_string::<i32>().iter().map(Value::from).collect(),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().map(Value::from).collect(),
        DataType::Utf8View => array.as_string_view().iter().map(Value::from).collect(),
        DataType::Int8 => numbers::<Int8Type>(array),
        DataType::Int16 => numbers::<Int16Type>(array),
        DataType::Int32 => numbers::<Int32Type>(array),
        DataType::Int64 => numbers::<Int64Type>(array),
        DataType::UInt8 => numbers::<UInt8Type>(array),
        DataType::UInt16 => numbers::<UInt16Type>(array),
        DataType::UInt32 => numbers::<UInt32Type>(array),
        DataType::UInt64 => numbers::<UInt64Type>(array),
        DataType::Float32 => numbers::<Float32Type>(array),
        DataType::Float64 => numbers::<Float64Type>(array),
        DataType::List(_) => lists(array.as_list::<i32>()),
        DataType::LargeList(_) => lists(array.as_list::<i64>()),
        DataType::Struct(_) => {
            let array = array.as_struct();
            let mut rows: Vec<Map<String, Value>> = vec![Map::new(); array.len()];
            for (name, column) in array.column_names().into_iter().zip(array.columns()) {
                for (row, value) in rows.iter_mut().zip(values(column)) {
                    row.insert(name.to_owned(), value);
                }
            }
            let value = |(row, cells)| if array.is_null(row) { Value::Null } else { Value::Object(cells) };
            rows.into_iter().enumerate().map(value).collect()
        }
        DataType::Dictionary(_, _) => {
            let array = array.as_any_dictionary();
            if array.values().is_empty() {
                // All rows are null, and the library panics on the keys of an empty dictionary.
                return vec![Value::Null; array.len()];
            }
            let (known, keys) = (values(array.values()), array.normalized_keys());
            let value =
                |(row, &key): (usize, &usize)| if array.is_null(row) { Value::Null } else { known[key].clone() };
            keys.iter().enumerate().map(value).collect()
        }
        _ => vec![Value::Null; array.len()],
    }
}

fn numbers<T: ArrowPrimitiveType>(array: &dyn Array) -> Vec<Value>
where
    Value: From<Option<T::Native>>,
{
    let array: &PrimitiveArray<T> = array.as_primitive();
    array.iter().map(Value::from).collect()
}

fn lists<O: OffsetSizeTrait>(array: &GenericListArray<O>) -> Vec<Value> {
    array.iter().map(|items| items.map_or(Value::Null, |items| Value::Array(values(&items)))).collect()
}
