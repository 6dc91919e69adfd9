//! Gradients in the formats of other programs: NumPy's arrays, and the folders of bergson.

use std::fs::{File, metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;

use hyperinf_gradients::Block;
use safetensors::Dtype;
use serde::Deserialize;

use super::read::Contents;
use super::zip::members;
use super::{FileError, GradientFile, Piece, StoredBlock};
use crate::FileStamp;

/// What a file of NumPy's begins with.
const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header of an array, and the longest description of a folder, in bytes.
const LONGEST: u64 = 16 << 20;
/// The files of bergson's folder.
pub(super) const BERGSON: [&str; 2] = ["info.json", "gradients.bin"];

/// An array in a file.
struct Array {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// The first byte of its numbers.
    start: u64,
    /// Bytes from one sample to the next; `None`: they follow each other.
    stride: Option<u64>,
}

impl GradientFile {
    /// An array `[n, rows, cols]` or `[n, D]`, one block with the file's name.
    pub(super) fn open_npy(path: &Path) -> Result<Self, FileError> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::of_arrays(path, |file, length| Ok(vec![array(file, name, 0, length)?]))
    }

    /// An archive of arrays as `numpy.savez` writes it, one block each.
    pub(super) fn open_npz(path: &Path) -> Result<Self, FileError> {
        Self::of_arrays(path, |file, length| {
            let mut arrays = Vec::new();
            for (name, start, end) in members(file, length)? {
                let Some(name) = name.strip_suffix(".npy") else {
                    return Err(FileError::Archive { reason: format!("`{name}` in it is not an array") });
                };
                arrays.push(array(file, name.to_owned(), start, end)?);
            }
            Ok(arrays)
        })
    }

    /// A folder of bergson: `gradients.bin`, one record per row, as `info.json` describes it. Its blocks have one side.
    pub(super) fn open_bergson(folder: &Path) -> Result<Self, FileError> {
        #[derive(Deserialize)]
        struct Info {
            num_grads: usize,
            dtype: Named,
            grad_sizes: std::collections::BTreeMap<String, usize>,
            base_dtype: String,
        }
        #[derive(Deserialize)]
        struct Named {
            names: Vec<String>,
        }
        let [info, numbers] = BERGSON.map(|name| folder.join(name));
        let found = metadata(&info).map_err(FileError::Open)?;
        if !found.is_file() || found.len() > LONGEST {
            return Err(FileError::NotRegular);
        }
        let bytes = std::fs::read(&info).map_err(FileError::Open)?;
        let info: Info = serde_json::from_slice(&bytes).map_err(FileError::Bergson)?;
        let dtype = named(&info.base_dtype)?;
        let width = (dtype.bitsize() / 8) as u64;
        let size = |name: &String| info.grad_sizes.get(name).copied();
        let too_large = || FileError::Archive { reason: "its info.json names sizes that no file has".into() };
        let all: Option<Vec<usize>> = info.dtype.names.iter().map(size).collect();
        let all = all.filter(|all| all.len() == info.grad_sizes.len());
        let all = all.ok_or_else(|| FileError::Archive {
            reason: "`dtype` and `grad_sizes` in its info.json name other blocks".into(),
        })?;
        let total = all.iter().try_fold(0_u64, |sum, &size| sum.checked_add(size as u64)).ok_or_else(too_large)?;
        let stride = total.checked_mul(width).ok_or_else(too_large)?;
        let expected = stride.checked_mul(info.num_grads as u64).ok_or_else(too_large)?;
        let mut file = Self::of_arrays(&numbers, |_, length| {
            if length != expected {
                return Err(FileError::Truncated { expected, found: length });
            }
            let mut start = 0;
            let arrays = info.dtype.names.iter().zip(&all).map(|(name, &size)| {
                let shape = vec![info.num_grads, size];
                let array = Array { name: name.clone(), dtype, shape, start, stride: Some(stride) };
                start += size as u64 * width;
                array
            });
            Ok(arrays.collect())
        })?;
        file.path = folder.to_owned();
        Ok(file)
    }

    fn of_arrays(
        path: &Path,
        arrays: impl FnOnce(&mut File, u64) -> Result<Vec<Array>, FileError>,
    ) -> Result<Self, FileError> {
        if !metadata(path).map_err(FileError::Open)?.is_file() {
            return Err(FileError::NotRegular);
        }
        let mut file = File::open(path).map_err(FileError::Open)?;
        let found = file.metadata().map_err(FileError::Open)?;
        let (length, stamp) = (found.len(), FileStamp::of(&found));
        let mut blocks: Vec<StoredBlock> = Vec::new();
        for Array { name, dtype, shape, start, stride } in arrays(&mut file, length)? {
            let (samples, rows, cols) = sides(&name, &shape)?;
            let width = (dtype.bitsize() / 8) as u64;
            // What the sizes are checked against, so that no product below can overflow.
            let own = (rows as u64).checked_mul(cols as u64).and_then(|parameters| parameters.checked_mul(width));
            let end = own.and_then(|own| {
                let stride = stride.unwrap_or(own);
                (samples as u64 - 1).checked_mul(stride)?.checked_add(own)?.checked_add(start)
            });
            if end.is_none_or(|end| end > length) {
                return Err(FileError::Truncated { expected: end.unwrap_or(u64::MAX), found: length });
            }
            if let Some(first) = blocks.first()
                && first.shape[0] != samples
            {
                let (other, expected) = (first.block.name.clone(), first.shape[0]);
                return Err(FileError::SampleCount { block: name, found: samples, other, expected });
            }
            if blocks.iter().any(|stored| stored.block.name == name) {
                return Err(FileError::Twice { block: name });
            }
            let stride = stride.filter(|stride| Some(*stride) != own);
            let pieces = vec![Piece { file: 0, start, samples, stride }];
            blocks.push(StoredBlock { block: Block::new(name, rows, cols), dtype, shape, pieces });
        }
        let samples = blocks.first().ok_or(FileError::NoBlocks)?.shape[0];
        let files = vec![Mutex::new(Contents::new(path, file, length, stamp))];
        Ok(Self { path: path.to_owned(), length, samples, blocks, files, vouched: None })
    }
}

/// Samples, rows and columns of a shape.
pub(super) fn sides(name: &str, shape: &[usize]) -> Result<(usize, usize, usize), FileError> {
    let (samples, rows, cols) = match *shape {
        [n, rows, cols] => (n, rows, cols),
        [n, parameters] => (n, 1, parameters),
        _ => return Err(FileError::Rank { block: name.to_owned(), shape: shape.to_vec() }),
    };
    if samples == 0 {
        return Err(FileError::NoSamples { block: name.to_owned(), shape: shape.to_vec() });
    }
    if rows == 0 || cols == 0 {
        return Err(FileError::NoParameters { block: name.to_owned(), shape: shape.to_vec() });
    }
    Ok((samples, rows, cols))
}

/// The array that begins at a byte and ends before another.
fn array(file: &mut File, name: String, begin: u64, end: u64) -> Result<Array, FileError> {
    let wrong = |reason: &str| FileError::Array { block: name.clone(), reason: reason.to_owned() };
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => wrong("it ends in its header"),
        _ => FileError::Open(error),
    };
    file.seek(SeekFrom::Start(begin)).map_err(FileError::Open)?;
    let mut fixed = [0; 8];
    file.read_exact(&mut fixed).map_err(failed)?;
    if !fixed.starts_with(MAGIC) {
        return Err(wrong("it is not an array of NumPy"));
    }
    let (prefix, length) = match fixed[6] {
        1 => {
            let mut bytes = [0; 2];
            file.read_exact(&mut bytes).map_err(failed)?;
            (10, u64::from(u16::from_le_bytes(bytes)))
        }
        2 | 3 => {
            let mut bytes = [0; 4];
            file.read_exact(&mut bytes).map_err(failed)?;
            (12, u64::from(u32::from_le_bytes(bytes)))
        }
        _ => return Err(wrong("its version is not 1, 2 or 3")),
    };
    let start = begin + prefix + length;
    if length > LONGEST || start > end {
        return Err(wrong("its header is longer than it is"));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(failed)?;
    let text = String::from_utf8(text).map_err(|_| wrong("its header is not text"))?;
    let value = |key: &str| {
        let (_, rest) = text.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let dtype = value("descr").and_then(|rest| rest.strip_prefix('\'')?.split_once('\''));
    let dtype = named(dtype.ok_or_else(|| wrong("its header has no simple `descr`"))?.0)?;
    let shape = value("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).map(|(shape, _)| shape);
    let shape = shape.ok_or_else(|| wrong("its header has no `shape`"))?;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape: Option<Vec<usize>> = sizes.map(|size| size.parse().ok()).collect();
    let shape = shape.ok_or_else(|| wrong("its shape is not made of whole numbers"))?;
    if !value("fortran_order").is_some_and(|rest| rest.starts_with("False")) {
        return Err(wrong("its numbers lie column by column: write it with numpy.ascontiguousarray"));
    }
    let numbers = shape.iter().try_fold((dtype.bitsize() / 8) as u64, |bytes, &size| bytes.checked_mul(size as u64));
    match numbers.and_then(|bytes| bytes.checked_add(start)) {
        Some(last) if last <= end => Ok(Array { name, dtype, shape, start, stride: None }),
        last => Err(FileError::Truncated { expected: last.unwrap_or(u64::MAX), found: end }),
    }
}

/// The type that NumPy gives this name.
fn named(name: &str) -> Result<Dtype, FileError> {
    match name {
        "<f4" | "float32" => Ok(Dtype::F32),
        "<f8" | "float64" => Ok(Dtype::F64),
        "<f2" | "float16" => Ok(Dtype::F16),
        // What NumPy writes for a type that it does not know.
        "bfloat16" | "<V2" | "|V2" => Ok(Dtype::BF16),
        _ => Err(FileError::NumpyType { found: name.to_owned() }),
    }
}
