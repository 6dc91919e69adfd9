use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrowPrimitiveType, GenericListArray, OffsetSizeTrait, PrimitiveArray};
use arrow_schema::{DataType, Field, FieldRef};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyperinf_models::Json;
use serde_json::Value;

use crate::DataError;

/// What a value takes in memory besides its text, roughly.
pub(super) const VALUE: u64 = 32;
/// What a row takes besides its values, roughly.
const ROW: u64 = 64;

/// How much may still be unpacked: a few kilobytes can stand for many gigabytes.
pub(super) struct Budget {
    limit: u64,
    /// The file's length.
    packed: u64,
    used: u64,
    /// The row group that is being read.
    pub(super) row_group: usize,
}

impl Budget {
    pub(super) fn new(limit: u64, packed: u64) -> Self {
        Self { limit, packed, used: 0, row_group: 0 }
    }

    /// Some rows are kept.
    pub(super) fn rows(&mut self, count: usize) -> Result<(), DataError> {
        self.take(ROW.saturating_mul(count as u64))
    }

    /// The pages of a column claim to unpack to so many bytes.
    pub(super) fn check_pages(&self, column: &str, unpacked: u64) -> Result<(), DataError> {
        if unpacked <= self.limit { Ok(()) } else { Err(self.exceeded(Some(column.to_owned()), unpacked)) }
    }

    fn take(&mut self, bytes: u64) -> Result<(), DataError> {
        self.used = self.used.saturating_add(bytes);
        if self.used <= self.limit { Ok(()) } else { Err(self.exceeded(None, self.used)) }
    }

    fn exceeded(&self, column: Option<String>, unpacked: u64) -> DataError {
        let Self { limit, packed, row_group, .. } = *self;
        DataError::Unpacked { row_group, column, unpacked, packed, limit }
    }
}

/// The same field with views in place of texts.
pub(super) fn viewed(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::List(item) => DataType::List(viewed(item)),
        DataType::LargeList(item) => DataType::LargeList(viewed(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(viewed).collect()),
        _ => return field.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}

/// Whether a type is not read, and would be if bytes were.
pub(super) fn with_bytes(kind: &DataType) -> bool {
    !readable(kind, false) && readable(kind, true)
}

/// Whether a type is read, which bytes are where they may be images.
pub(super) fn readable(kind: &DataType, bytes: bool) -> bool {
    match kind {
        DataType::List(field) | DataType::LargeList(field) => readable(field.data_type(), bytes),
        DataType::Struct(fields) => fields.iter().all(|field| readable(field.data_type(), bytes)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => bytes,
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
pub(super) fn values(array: &dyn Array, budget: &mut Budget) -> Result<Vec<Json>, DataError> {
    budget.take(VALUE.saturating_mul(array.len() as u64))?;
    Ok(match array.data_type() {
        DataType::Boolean => array.as_boolean().iter().map(|value| value.map_or(Json::Null, Json::Bool)).collect(),
        DataType::Utf8 => texts(array.as_string::<i32>().iter(), budget)?,
        DataType::LargeUtf8 => texts(array.as_string::<i64>().iter(), budget)?,
        DataType::Utf8View => texts(array.as_string_view().iter(), budget)?,
        DataType::Binary => bytes(array.as_binary::<i32>().iter(), budget)?,
        DataType::LargeBinary => bytes(array.as_binary::<i64>().iter(), budget)?,
        DataType::BinaryView => bytes(array.as_binary_view().iter(), budget)?,
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
        DataType::List(_) => lists(array.as_list::<i32>(), budget)?,
        DataType::LargeList(_) => lists(array.as_list::<i64>(), budget)?,
        DataType::Struct(_) => {
            let array = array.as_struct();
            let mut rows: Vec<Vec<(String, Json)>> = vec![Vec::new(); array.len()];
            for (name, column) in array.column_names().into_iter().zip(array.columns()) {
                for (row, value) in rows.iter_mut().zip(values(column, budget)?) {
                    // Arrow gives every row all fields: a field without a value is one that the row lacks.
                    if value != Json::Null {
                        budget.take(VALUE + name.len() as u64)?;
                        row.push((name.to_owned(), value));
                    }
                }
            }
            let value = |(row, pairs)| if array.is_null(row) { Json::Null } else { Json::Object(pairs) };
            rows.into_iter().enumerate().map(value).collect()
        }
        _ => vec![Json::Null; array.len()],
    })
}

fn texts<'a>(texts: impl Iterator<Item = Option<&'a str>>, budget: &mut Budget) -> Result<Vec<Json>, DataError> {
    let value = |text: Option<&str>| {
        let Some(text) = text else { return Ok(Json::Null) };
        budget.take(text.len() as u64)?;
        Ok(Json::String(text.to_owned()))
    };
    texts.map(value).collect()
}

/// Bytes as text in base64, which is how JSON has them.
fn bytes<'a>(values: impl Iterator<Item = Option<&'a [u8]>>, budget: &mut Budget) -> Result<Vec<Json>, DataError> {
    let value = |value: Option<&[u8]>| {
        let Some(value) = value else { return Ok(Json::Null) };
        budget.take(value.len() as u64)?;
        Ok(Json::String(BASE64_STANDARD.encode(value)))
    };
    values.map(value).collect()
}

fn numbers<T: ArrowPrimitiveType>(array: &dyn Array) -> Vec<Json>
where
    Value: From<Option<T::Native>>,
{
    let array: &PrimitiveArray<T> = array.as_primitive();
    array.iter().map(|number| Json::from(Value::from(number))).collect()
}

fn lists<O: OffsetSizeTrait>(array: &GenericListArray<O>, budget: &mut Budget) -> Result<Vec<Json>, DataError> {
    let list = |items: Option<Arc<dyn Array>>| match items {
        None => Ok(Json::Null),
        Some(items) => values(&items, budget).map(Json::Array),
    };
    array.iter().map(list).collect()
}
