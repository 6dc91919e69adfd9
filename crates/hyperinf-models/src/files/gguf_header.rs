//! The header of a GGUF file: entries, and the places of tensors.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Seek};

use rlx_gguf::{GgmlType, MetaValue, TypeDialect};

use super::gguf_reader::describe;
use crate::FormatError;

const MAGIC: [u8; 4] = *b"GGUF";
/// The alignment of a file that names none.
const USUAL_ALIGNMENT: u64 = 32;
/// More sides than any tensor has.
const MOST_SIDES: u32 = 4;
/// Lists outside the vocabulary that are longer are passed over: nothing here reads them.
const LONGEST: u64 = 4096;
/// More tokens than any vocabulary has; a value of a list takes 32 bytes.
const MOST_TOKENS: u64 = 1 << 22;
const VOCABULARY: &str = "tokenizer.ggml.";

/// Everything before the tensors' values.
pub(super) struct GgufHeader {
    pub(super) entries: HashMap<String, MetaValue>,
    pub(super) tensors: BTreeMap<String, GgufTensor>,
    /// The first byte of the values.
    pub(super) start: u64,
}

/// A tensor's place.
pub(super) struct GgufTensor {
    /// Innermost first.
    pub(super) shape: Vec<usize>,
    pub(super) kind: GgmlType,
    /// From the first byte of the values.
    pub(super) offset: u64,
}

impl GgufHeader {
    /// Reads the header of a file of `length` bytes. No number in it makes this take more memory than the file has.
    pub(super) fn read(file: &mut (impl BufRead + Seek), length: u64) -> Result<Self, FormatError> {
        let mut bytes = Bytes { file, length, wide: true };
        if bytes.array()? != MAGIC {
            return Err(read_error("it does not begin with `GGUF`"));
        }
        let version = bytes.u32()?;
        if !(1..=3).contains(&version) {
            return Err(read_error(format!("it has version {version}, but only 1 to 3 can be read")));
        }
        bytes.wide = version > 1;
        let (tensors, entries) = (bytes.size()?, bytes.size()?);
        let entries = bytes.entries(entries)?;
        let dialect = TypeDialect::from_metadata(&entries);
        let tensors = bytes.tensors(tensors, dialect)?;
        let alignment = alignment(&entries)?;
        let end = bytes.place()?;
        let start = end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        Ok(Self { entries, tensors, start })
    }
}

/// The alignment of tensors, which decides where they are: a wrong one would give other numbers.
fn alignment(entries: &HashMap<String, MetaValue>) -> Result<u64, FormatError> {
    let key = "general.alignment";
    let Some(value) = entries.get(key) else { return Ok(USUAL_ALIGNMENT) };
    let power = |&size: &u64| size.is_power_of_two() && size <= 1 << 20;
    whole(value).filter(power).ok_or_else(|| FormatError::Entry {
        key: key.to_owned(),
        found: describe(value),
        expected: "a power of two up to 1048576",
    })
}

/// A whole number that is not negative, however it is stored.
pub(super) fn whole(value: &MetaValue) -> Option<u64> {
    match *value {
        MetaValue::U8(v) => Some(v.into()),
        MetaValue::U16(v) => Some(v.into()),
        MetaValue::U32(v) => Some(v.into()),
        MetaValue::U64(v) => Some(v),
        MetaValue::I8(v) => v.try_into().ok(),
        MetaValue::I16(v) => v.try_into().ok(),
        MetaValue::I32(v) => v.try_into().ok(),
        MetaValue::I64(v) => v.try_into().ok(),
        // Writers in other languages know one kind of number. 2^53 is where whole numbers are no longer exact.
        MetaValue::F32(v) => fractionless(v.into()),
        MetaValue::F64(v) => fractionless(v),
        MetaValue::Bool(_) | MetaValue::String(_) | MetaValue::Array(_) => None,
    }
}

/// A number, however it is stored.
pub(super) fn number(value: &MetaValue) -> Option<f64> {
    match *value {
        MetaValue::F32(v) => Some(v.into()),
        MetaValue::F64(v) => Some(v),
        MetaValue::I8(v) => Some(v.into()),
        MetaValue::I16(v) => Some(v.into()),
        MetaValue::I32(v) => Some(v.into()),
        MetaValue::I64(v) => Some(v as f64),
        _ => whole(value).map(|number| number as f64),
    }
}

fn fractionless(number: f64) -> Option<u64> {
    let exact = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
    exact.then_some(number as u64)
}

fn read_error(reason: impl Into<String>) -> FormatError {
    FormatError::Read(reason.into())
}

/// A file that is read from front to back.
struct Bytes<'a, F> {
    file: &'a mut F,
    length: u64,
    /// Whether sizes have 64 bits rather than 32.
    wide: bool,
}

impl<F: BufRead + Seek> Bytes<'_, F> {
    fn place(&mut self) -> Result<u64, FormatError> {
        self.file.stream_position().map_err(|error| read_error(error.to_string()))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(|error| read_error(error.to_string()))?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    fn size(&mut self) -> Result<u64, FormatError> {
        if self.wide { self.u64() } else { self.u32().map(u64::from) }
    }

    /// Fails if `count` things of `bytes` each are more than the rest of the file.
    fn fits(&mut self, what: &str, count: u64, bytes: u64) -> Result<(), FormatError> {
        let rest = self.length.saturating_sub(self.place()?);
        if count.checked_mul(bytes).is_some_and(|bytes| bytes <= rest) {
            return Ok(());
        }
        Err(read_error(format!("it names {count} {what}, but only {rest} bytes follow")))
    }

    fn text(&mut self) -> Result<String, FormatError> {
        let size = self.size()?;
        self.fits("bytes of text", size, 1)?;
        let mut bytes = vec![0; size as usize];
        self.file.read_exact(&mut bytes).map_err(|error| read_error(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| read_error(format!("a text in its header: {error}")))
    }

    fn entries(&mut self, count: u64) -> Result<HashMap<String, MetaValue>, FormatError> {
        // A size, a kind and a value of one byte.
        self.fits("entries", count, if self.wide { 13 } else { 9 })?;
        let mut entries = HashMap::new();
        for _ in 0..count {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = if kind == 9 { self.list(&key)? } else { self.value(&key, kind)? };
            if entries.contains_key(&key) {
                return Err(read_error(format!("it has the entry `{key}` twice")));
            }
            entries.insert(key, value);
        }
        Ok(entries)
    }

    fn list(&mut self, key: &str) -> Result<MetaValue, FormatError> {
        let kind = self.u32()?;
        let count = self.size()?;
        let bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 => {
                if self.wide {
                    8
                } else {
                    4
                }
            }
            10..=12 => 8,
            9 => return Err(read_error(format!("entry `{key}` is a list of lists"))),
            _ => return Err(unknown(key, kind)),
        };
        self.fits(&format!("values in the list `{key}`"), count, bytes)?;
        if key.starts_with(VOCABULARY) && count > MOST_TOKENS {
            return Err(read_error(format!("the list `{key}` has {count} values, but at most {MOST_TOKENS} are read")));
        }
        let kept = key.starts_with(VOCABULARY) || count <= LONGEST;
        let mut values = Vec::new();
        for _ in 0..count {
            let value = self.value(key, kind)?;
            if kept {
                values.push(value);
            }
        }
        Ok(MetaValue::Array(values))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<MetaValue, FormatError> {
        Ok(match kind {
            0 => MetaValue::U8(u8::from_le_bytes(self.array()?)),
            1 => MetaValue::I8(i8::from_le_bytes(self.array()?)),
            2 => MetaValue::U16(u16::from_le_bytes(self.array()?)),
            3 => MetaValue::I16(i16::from_le_bytes(self.array()?)),
            4 => MetaValue::U32(self.u32()?),
            5 => MetaValue::I32(i32::from_le_bytes(self.array()?)),
            6 => MetaValue::F32(f32::from_le_bytes(self.array()?)),
            7 => MetaValue::Bool(match self.array()? {
                [0] => false,
                [1] => true,
                [other] => {
                    return Err(read_error(format!("entry `{key}` is {other}, but must be 0 or 1 as a truth value")));
                }
            }),
            8 => MetaValue::String(self.text()?),
            10 => MetaValue::U64(self.u64()?),
            11 => MetaValue::I64(i64::from_le_bytes(self.array()?)),
            12 => MetaValue::F64(f64::from_le_bytes(self.array()?)),
            _ => return Err(unknown(key, kind)),
        })
    }

    fn tensors(&mut self, count: u64, dialect: TypeDialect) -> Result<BTreeMap<String, GgufTensor>, FormatError> {
        // Two sizes, the number of sides and the kind.
        self.fits("tensors", count, if self.wide { 24 } else { 20 })?;
        let mut tensors = BTreeMap::new();
        for _ in 0..count {
            let name = self.text()?;
            let sides = self.u32()?;
            if sides > MOST_SIDES {
                return Err(read_error(format!(
                    "tensor `{name}` has {sides} sides, but at most {MOST_SIDES} are read"
                )));
            }
            let shape = (0..sides).map(|_| self.size().map(|side| usize::try_from(side).unwrap_or(usize::MAX)));
            let shape = shape.collect::<Result<Vec<usize>, _>>()?;
            let number = self.u32()?;
            let kind = GgmlType::from_u32_dialect(number, dialect)
                .map_err(|error| read_error(format!("tensor `{name}`: {error:#}")))?;
            let offset = self.u64()?;
            if tensors.contains_key(&name) {
                return Err(read_error(format!("it has the tensor `{name}` twice")));
            }
            tensors.insert(name, GgufTensor { shape, kind, offset });
        }
        Ok(tensors)
    }
}

fn unknown(key: &str, kind: u32) -> FormatError {
    read_error(format!("entry `{key}` is of kind {kind}, which is unknown"))
}
