//! The file of a recording: safetensors whose tensors are written and read one after the other.

use std::collections::BTreeMap;
use std::io::{Error, Read, Seek, SeekFrom};
use std::path::Path;

use burn::tensor::{DType, TensorData};
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value, json};
use twox_hash::XxHash3_128;

use super::checkpoint::TYPES;
use crate::{ModelError, open_regular};

/// The longest header that is accepted, in bytes.
const MOST_HEADER: u64 = 1 << 30;

/// Where a tensor is in a file.
pub(super) struct Place {
    from: u64,
    bytes: usize,
    shape: Vec<usize>,
    dtype: DType,
}

/// The size of a tensor that will be written.
pub(super) struct Shape {
    dtype: DType,
    shape: Vec<usize>,
    bytes: usize,
}

impl Shape {
    pub(super) fn of(data: &TensorData) -> Self {
        Self { dtype: data.dtype(), shape: data.shape().to_vec(), bytes: data.as_bytes().len() }
    }
}

/// The text of an entry of a file's metadata, whose hash is before it, and where its tensors are.
pub(super) fn read_header(path: &Path, entry_name: &str) -> Result<(String, BTreeMap<String, Place>), ModelError> {
    let bad = |reason: String| failed(path, reason);
    let mut file = open_regular(path).map_err(|e| bad(e.to_string()))?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|e| bad(e.to_string()))?;
    let length = u64::from_le_bytes(length);
    let size = file.metadata().map_err(|e| bad(e.to_string()))?.len();
    if length > MOST_HEADER.min(size.saturating_sub(8)) {
        return Err(bad(format!("its header would have {length} bytes, and the file has {size}")));
    }
    let mut text = String::new();
    file.take(length).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
    let mut entries: BTreeMap<String, Value> = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let entry = entries.remove("__metadata__").and_then(|all| Some(all.get(entry_name)?.as_str()?.to_owned()));
    let entry = entry.ok_or_else(|| bad(format!("its header has no `{entry_name}`")))?;
    let (hash, text) = entry.split_once(' ').ok_or_else(|| bad("its header is damaged".into()))?;
    if hash != text_hash(text) {
        return Err(bad("its header is not what was written".into()));
    }
    let mut places = BTreeMap::new();
    for (name, info) in entries {
        let TensorInfo { dtype, shape, data_offsets: (from, to) } =
            serde_json::from_value(info).map_err(|e| bad(format!("`{name}`: {e}")))?;
        let known = TYPES.into_iter().find(|(_, known)| *known == dtype);
        let (dtype, _) = known.ok_or_else(|| bad(format!("`{name}` is of type {dtype:?}")))?;
        let bytes = shape.iter().try_fold(dtype.size(), |all, side| all.checked_mul(*side));
        if to.checked_sub(from) != bytes || bytes.is_none() {
            return Err(bad(format!("`{name}` of shape {shape:?} has the bytes {from} to {to}")));
        }
        let (from, bytes) = (8 + length + from as u64, to - from);
        if from.saturating_add(bytes as u64) > size {
            return Err(bad(format!("it ends before `{name}` does")));
        }
        places.insert(name, Place { from, bytes, shape, dtype });
    }
    Ok((text.to_owned(), places))
}

/// The tensors of a file whose names begin like this, by the rest of their names.
pub(super) fn read_tensors(
    path: &Path,
    places: &BTreeMap<String, Place>,
    beginning: &str,
) -> Result<BTreeMap<String, TensorData>, ModelError> {
    let bad = |e: Error| failed(path, e);
    let mut file = open_regular(path).map_err(bad)?;
    let mut found = BTreeMap::new();
    for (name, Place { from, bytes, shape, dtype }) in places {
        let Some(rest) = name.strip_prefix(beginning) else { continue };
        let mut data = vec![0; *bytes];
        file.seek(SeekFrom::Start(*from)).map_err(bad)?;
        file.read_exact(&mut data).map_err(bad)?;
        found.insert(rest.to_owned(), TensorData::from_bytes_vec(data, shape.clone(), *dtype));
    }
    Ok(found)
}

/// The beginning of a file of safetensors, whose tensors follow in this order.
pub(super) fn preamble(sizes: &[(String, Shape)], entry: &str, text: &str) -> Result<Vec<u8>, String> {
    let mut all = Map::new();
    all.insert("__metadata__".into(), json!({ entry: format!("{} {text}", text_hash(text)) }));
    let mut from = 0;
    for (name, Shape { dtype, shape, bytes }) in sizes {
        let known = TYPES.into_iter().find(|(known, _)| known == dtype);
        let (_, dtype) = known.ok_or_else(|| format!("`{name}` is of type {dtype:?}"))?;
        let place = json!({ "dtype": dtype, "shape": shape, "data_offsets": [from, from + bytes] });
        all.insert(name.clone(), place);
        from += bytes;
    }
    let mut text = serde_json::to_vec(&all).map_err(|e| e.to_string())?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}

pub(super) fn failed(path: &Path, reason: impl ToString) -> ModelError {
    ModelError::Recording { path: path.to_owned(), reason: reason.to_string() }
}

pub(super) fn tensor_hash(tensors: &BTreeMap<String, TensorData>) -> String {
    let mut hash = XxHash3_128::new();
    for (name, data) in tensors {
        hash.write(format!("{name} {:?} {:?}\n", data.dtype(), data.shape()).as_bytes());
        hash.write(data.as_bytes());
    }
    format!("{:032x}", hash.finish_128())
}

fn text_hash(text: &str) -> String {
    format!("{:032x}", XxHash3_128::oneshot(text.as_bytes()))
}
