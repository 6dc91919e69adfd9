use std::fmt;
use std::fs::File;
use std::io::Read;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::FileError;

/// The bytes of the header's length.
const PREFIX: u64 = 8;
/// The longest header that the format allows.
const LONGEST: u64 = 100_000_000;

/// One tensor as the header describes it.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// The first byte of its numbers, from the beginning of the file.
    pub(super) start: u64,
}

/// The tensors of a safetensors file of that length, in the order of their numbers, which fill the file exactly.
pub(super) fn read(file: &mut File, length: u64) -> Result<Vec<Tensor>, FileError> {
    if length == 0 {
        return Err(FileError::Empty);
    }
    let mut prefix = [0; PREFIX as usize];
    let room = length.checked_sub(PREFIX).ok_or(FileError::Short { length })?;
    file.read_exact(&mut prefix).map_err(FileError::Open)?;
    let size = u64::from_le_bytes(prefix);
    if size > room.min(LONGEST) {
        return Err(FileError::HeaderLength { header: size, length });
    }
    let mut json = vec![0; size as usize];
    file.read_exact(&mut json).map_err(FileError::Open)?;

    let Header { mut tensors, twice } = serde_json::from_slice(&json).map_err(FileError::Json)?;
    if let Some(block) = twice {
        return Err(FileError::Twice { block });
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let described = Metadata::new(None, tensors.clone()).map_err(FileError::Layout)?.data_len() as u64;
    let begin = PREFIX + size;
    let expected = begin.saturating_add(described);
    if expected > length {
        return Err(FileError::Truncated { expected, found: length });
    }
    if expected < length {
        return Err(FileError::Trailing { expected, found: length });
    }
    let tensors = tensors.into_iter().map(|(name, TensorInfo { dtype, shape, data_offsets })| Tensor {
        name,
        dtype,
        shape,
        start: begin + data_offsets.0 as u64,
    });
    Ok(tensors.collect())
}

/// The header's entries in order. A map would silently keep the last of two tensors of one name.
struct Header {
    tensors: Vec<(String, TensorInfo)>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut tensors, mut seen) = (Vec::new(), std::collections::HashSet::new());
        let mut twice = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if !seen.insert(name.clone()) {
                twice.get_or_insert(name.clone());
            }
            tensors.push((name, map.next_value()?));
        }
        Ok(Header { tensors, twice })
    }
}
