use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use half::{bf16, f16};
use rlx_gguf::{GgmlType, MetaValue, bytes_for_public, dequant_typed};

use super::gguf_header::{GgufHeader, GgufTensor, number, whole};
use super::open::open_regular;
use crate::FormatError;

/// The supported tensor types.
const STORED: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K";

/// An open file: entries are in memory, tensors are read one at a time.
pub(super) struct Reader {
    header: GgufHeader,
    file: File,
    length: u64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, FormatError> {
        let failed = |error: std::io::Error| FormatError::Read(error.to_string());
        let mut file = open_regular(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let header = GgufHeader::read(&mut BufReader::new(&mut file), length)?;
        let reader = Self { header, file, length };
        match reader.integer("split.count")? {
            Some(parts) if parts > 1 => Err(FormatError::Parts { parts: parts as u64 }),
            _ => Ok(reader),
        }
    }

    pub(super) fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.header.tensors.contains_key(name)
    }

    /// The shape in the file's order, innermost first.
    pub(super) fn shape(&self, name: &str) -> Result<&[usize], FormatError> {
        Ok(&self.find(name)?.shape)
    }

    /// A tensor's values as f32, row by row; `shape` is innermost first.
    pub(super) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, FormatError> {
        let tensor = self.find(name)?;
        if tensor.shape != shape {
            let (found, expected) = (tensor.shape.clone(), shape.to_vec());
            return Err(FormatError::Shape { name: name.to_owned(), found, expected });
        }
        let (kind, offset) = (tensor.kind, tensor.offset);
        let storage = |found: String| FormatError::Storage { name: name.to_owned(), found, known: STORED };
        let count = shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side));
        let count = count.filter(|&count| count <= usize::MAX / 8).ok_or_else(|| storage(format!("{shape:?}")))?;
        if !readable(kind) {
            return Err(storage(kind.to_string()));
        }
        let bytes = bytes_for_public(kind, count).ok_or_else(|| storage(format!("{count} values of {kind}")))?;
        let start = u128::from(self.header.start) + u128::from(offset);
        let end = start + bytes as u128;
        if end > u128::from(self.length) {
            return Err(FormatError::Truncated { name: name.to_owned(), end, length: self.length });
        }
        let mut raw = vec![0; bytes];
        let read = self.file.seek(SeekFrom::Start(start as u64));
        read.and_then(|_| self.file.read_exact(&mut raw)).map_err(|error| FormatError::Read(error.to_string()))?;
        match kind {
            GgmlType::F32 => Ok(raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            GgmlType::F16 => Ok(raw.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            GgmlType::BF16 => Ok(raw.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            _ => dequant_typed(kind, &raw, count, name).map_err(|error| FormatError::Read(format!("{error:#}"))),
        }
    }

    pub(super) fn integer(&self, key: &str) -> Result<Option<usize>, FormatError> {
        self.entry(key, "a whole number from 0 to 4294967295", |value| {
            whole(value).and_then(|number| u32::try_from(number).ok()).map(|number| number as usize)
        })
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, FormatError> {
        self.entry(key, "a number", number)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, FormatError> {
        self.entry(key, "true or false", |value| match *value {
            MetaValue::Bool(v) => Some(v),
            _ => None,
        })
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&str>, FormatError> {
        self.entry(key, "a string", MetaValue::as_str)
    }

    pub(super) fn list(&self, key: &str) -> Result<Option<&[MetaValue]>, FormatError> {
        self.entry(key, "a list", MetaValue::as_array)
    }

    /// An entry converted by `read`, if it is present.
    fn entry<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a MetaValue) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        self.header
            .entries
            .get(key)
            .map(|value| read(value).ok_or_else(|| wrong(key, &describe(value), expected)))
            .transpose()
    }

    fn find(&self, name: &str) -> Result<&GgufTensor, FormatError> {
        self.header
            .tensors
            .get(name)
            .ok_or_else(|| FormatError::Tensors { missing: vec![name.to_owned()], unused: Vec::new() })
    }
}

/// The error for an entry with an unsupported value.
pub(super) fn wrong(key: &str, found: &str, expected: &'static str) -> FormatError {
    FormatError::Entry { key: key.to_owned(), found: found.to_owned(), expected }
}

/// The value of a required entry.
pub(super) fn required<T>(key: &str, value: Option<T>, expected: &'static str) -> Result<T, FormatError> {
    value.ok_or_else(|| wrong(key, "absent", expected))
}

pub(super) fn describe(value: &MetaValue) -> String {
    match value {
        MetaValue::Array(items) => format!("a list of {}", items.len()),
        MetaValue::String(text) => format!("`{text}`"),
        other => format!("{other:?}"),
    }
}

fn readable(kind: GgmlType) -> bool {
    use GgmlType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q8K};
    matches!(kind, F32 | F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2K | Q3K | Q4K | Q5K | Q6K | Q8K)
}
