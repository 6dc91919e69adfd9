//! Gradients written in another format or type.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use burn::tensor::TensorData;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::{
    FileError, GradientFile, Precision, Staged, StoreError, StoredType, WriteError, check_output, publish, stage_json,
};

/// Bytes that are converted at once.
const CHUNK: usize = 64 << 20;
/// The endings of files that are written.
const ENDINGS: [&str; 2] = ["safetensors", "npy"];

/// Writes gradients, of any source that [`GradientFile::open`] reads, as `.safetensors` or `.npy`.
///
/// `.npy` is one array `[n, D]`, all blocks side by side in their order; `FILE.npy.json` next to it names the columns of
/// each block. bf16, which NumPy does not have, becomes f32 there.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `from`, `to` | empty | the gradients, and the file to write |
/// | `stored` | `None` | the type of the numbers; `None`: as they are, f64 included |
#[derive(Clone, Debug, Default)]
pub struct Convert {
    /// The gradients.
    pub from: PathBuf,
    /// The file to write.
    pub to: PathBuf,
    /// The type of the numbers.
    pub stored: Option<StoredType>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Samples.
    pub samples: usize,
    /// Blocks.
    pub blocks: usize,
    /// The numbers of a sample.
    pub parameters: usize,
}

/// Why gradients were not converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// They cannot be read.
    #[error("the gradients in `{path}` cannot be used")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: Box<FileError>,
    },
    /// A format that is not written.
    #[error("`{path}` must end in .safetensors or .npy")]
    Ending {
        /// The file to write.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] StoreError),
}

impl Convert {
    /// Converts; memory does not grow with the samples.
    ///
    /// # Errors
    ///
    /// [`ConvertError`]; also if a number does not fit the type. No file is left behind.
    pub fn run(&self) -> Result<Converted, ConvertError> {
        let ending = self.to.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        let Some(ending) = ENDINGS.into_iter().find(|known| ending.as_deref() == Some(known)) else {
            return Err(ConvertError::Ending { path: self.to.clone() });
        };
        check_output(&self.to, &[&self.from])?;
        let unread = |source| ConvertError::Read { path: self.from.clone(), source: Box::new(source) };
        let file = GradientFile::open(&self.from).map_err(unread)?;
        let (samples, blocks) = (file.samples(), file.blocks().len());
        let parameters = file.blocks().iter().map(|stored| stored.block.parameters()).sum();
        if ending == "npy" {
            let beside = PathBuf::from(format!("{}.json", self.to.display()));
            let columns = columns(&file);
            publish(vec![self.npy(&file, parameters)?, stage_json(&beside, &columns)?], &[])?;
        } else {
            self.safetensors(&file)?.place()?;
        }
        Ok(Converted { samples, blocks, parameters })
    }

    fn dtype(&self, stored: Dtype) -> Dtype {
        self.stored.map_or(stored, StoredType::dtype)
    }

    fn safetensors(&self, file: &GradientFile) -> Result<Staged<'_>, StoreError> {
        let (mut header, mut end) = (Map::new(), 0);
        for stored in file.blocks() {
            let dtype = self.dtype(stored.dtype);
            let bytes = stored.shape.iter().product::<usize>() * (dtype.bitsize() / 8);
            let entry =
                json!({ "dtype": dtype.to_string(), "shape": stored.shape, "data_offsets": [end, end + bytes] });
            header.insert(stored.block.name.clone(), entry);
            end += bytes;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        Staged::new(&self.to, |out| {
            let mut out = BufWriter::new(out);
            out.write_all(&(text.len() as u64).to_le_bytes())?;
            out.write_all(&text)?;
            for (block, stored) in file.blocks().iter().enumerate() {
                let dtype = self.dtype(stored.dtype);
                let step = (CHUNK / (8 * stored.block.parameters())).max(1);
                for start in (0..file.samples()).step_by(step) {
                    let samples = start..file.samples().min(start + step);
                    let data = read(file, block, samples, dtype)?;
                    out.write_all(&encode(data, dtype)?)?;
                }
            }
            Ok(out.flush()?)
        })
    }

    fn npy(&self, file: &GradientFile, parameters: usize) -> Result<Staged<'_>, StoreError> {
        let widest = file.blocks().iter().map(|stored| self.dtype(stored.dtype)).max_by_key(|dtype| dtype.bitsize());
        let dtype = match widest {
            Some(Dtype::F64) => Dtype::F64,
            Some(Dtype::F16) if file.blocks().iter().all(|stored| self.dtype(stored.dtype) == Dtype::F16) => Dtype::F16,
            _ => Dtype::F32,
        };
        let descr = match dtype {
            Dtype::F64 => "<f8",
            Dtype::F16 => "<f2",
            _ => "<f4",
        };
        let text =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}, {parameters}), }}", file.samples());
        // The whole header is a multiple of 64 bytes, and ends in a line end.
        let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
        let step = (CHUNK / (8 * parameters)).max(1);
        Staged::new(&self.to, |out: &mut File| {
            let mut out = BufWriter::new(out);
            out.write_all(b"\x93NUMPY\x01\x00")?;
            out.write_all(&(length as u16).to_le_bytes())?;
            writeln!(out, "{text:<width$}", width = length - 1)?;
            for start in (0..file.samples()).step_by(step) {
                let samples = start..file.samples().min(start + step);
                let mut rows = vec![Vec::new(); samples.len()];
                for (block, stored) in file.blocks().iter().enumerate() {
                    let bytes = encode(read(file, block, samples.clone(), dtype)?, dtype)?;
                    let own = stored.block.parameters() * (dtype.bitsize() / 8);
                    rows.iter_mut().zip(bytes.chunks(own)).for_each(|(row, bytes)| row.extend_from_slice(bytes));
                }
                rows.iter().try_for_each(|row| out.write_all(row))?;
            }
            Ok(out.flush()?)
        })
    }
}

fn columns(file: &GradientFile) -> Value {
    let mut first = 0;
    let blocks = file.blocks().iter().map(|stored| {
        let columns = [first, first + stored.block.parameters()];
        first = columns[1];
        json!({ "name": stored.block.name, "rows": stored.block.rows, "cols": stored.block.cols, "columns": columns })
    });
    let blocks: Vec<Value> = blocks.collect();
    json!({ "samples": file.samples(), "blocks": blocks })
}

fn read(
    file: &GradientFile,
    block: usize,
    samples: std::ops::Range<usize>,
    dtype: Dtype,
) -> Result<TensorData, WriteError> {
    let precision = if dtype == Dtype::F64 { Precision::Double } else { Precision::Single };
    file.read(block, samples, precision)
        .map_err(|error| WriteError::Content { what: "the gradients cannot be read", source: Box::new(error) })
}

/// The numbers in their new type, little-endian.
fn encode(data: TensorData, dtype: Dtype) -> Result<Vec<u8>, WriteError> {
    if dtype == Dtype::F64 {
        let values = data.as_slice::<f64>().expect("the values were read as f64");
        return Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect());
    }
    let values = data.as_slice::<f32>().expect("the values were read as f32");
    let stored = StoredType::NAMES.into_iter().map(|(_, stored)| stored).find(|stored| stored.dtype() == dtype);
    stored.unwrap_or_default().encode(values).map_err(|value| WriteError::Content {
        what: "a number is too large for the type",
        source: format!("{value:e} is not finite in {dtype}").into(),
    })
}
