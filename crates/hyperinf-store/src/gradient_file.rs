//! Files of per-sample gradients, which any framework can write.
//!
//! A safetensors file with one tensor per block, `[n, rows, cols]` or `[n, D]`, of type F32, F16, BF16 or F64. Row
//! `i` of every tensor is sample `i`. A block `[n, D]` counts as 1 row of `D` columns: a one-sided curvature of it
//! is the whole `D × D` matrix, so write three dimensions where a layer has two sides.
//!
//! A folder with an `index.json` is such a file in shards, see [`GradientFile::open`].
//!
//! Only the header stays in memory. The numbers of a block are read on demand and without mapping the file, so that a
//! file truncated during a run is an error, not a signal. A file that changes in any way while it is open is an error.

mod error;
mod excerpt;
mod foreign;
mod header;
mod journal;
mod read;
mod recorded;
mod rows;
mod shards;
mod stored_type;
mod write;
mod zip;

use std::fs::{File, metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::TensorData;
use hyperinf_gradients::Block;
use safetensors::Dtype;

use crate::FileStamp;
pub use error::FileError;
use foreign::{BERGSON, sides};
use header::Tensor;
pub use journal::{KeyDifference, Restart, Resumption, RunKey};
use read::{Contents, Target};
pub use recorded::{Check, RecordedBatches};
pub(crate) use shards::{Files, LIST, ShardList};
pub use stored_type::StoredType;
pub use write::GradientWriter;

/// Numbers that are scanned at once, 32 MiB of f64.
const SCANNED: usize = 1 << 22;

/// A file of per-sample gradients, or a folder of shards, open for reading.
pub struct GradientFile {
    path: PathBuf,
    length: u64,
    samples: usize,
    blocks: Vec<StoredBlock>,
    /// The file, or the shards.
    files: Vec<Mutex<Contents>>,
    /// The hash of all shards, where a journal vouches for them.
    vouched: Option<String>,
}

/// A block and where its numbers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// Name and sides.
    pub block: Block,
    /// The type of the numbers.
    pub dtype: Dtype,
    /// The tensor's shape in the file.
    pub shape: Vec<usize>,
    /// Where its numbers are, in the order of the samples.
    pieces: Vec<Piece>,
}

/// The numbers of consecutive samples of a block in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    file: usize,
    /// The first byte.
    start: u64,
    samples: usize,
    /// Bytes from one sample to the next; `None`: they follow each other.
    stride: Option<u64>,
}

/// The floating-point type that numbers are read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `f32`.
    Single,
    /// `f64`.
    Double,
}

/// A NaN or an infinity, and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct BadValue {
    /// The block.
    pub block: String,
    /// Its index in each of the tensor's dimensions after the first.
    pub index: Vec<usize>,
    /// The value.
    pub value: f64,
}

impl GradientFile {
    /// Opens a file and checks its whole header. The blocks are in the order in which their numbers lie in the file.
    ///
    /// Of a folder it opens the shards that its `index.json` lists: `{"weight_map": {BLOCK: FILE, …}}`, as Hugging Face
    /// writes it, or a list of files for each block, whose samples follow each other. A folder written by
    /// [`IndexWriter`](crate::IndexWriter) must be complete; what its journal vouches for is compared with its hash as it
    /// is read.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, is not a safetensors file, or does not hold gradients as described above.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let found = metadata(path).map_err(FileError::Open)?;
        if found.is_dir() {
            let bergson = BERGSON.iter().all(|name| path.join(name).exists());
            return if bergson { Self::open_bergson(path) } else { Self::open_folder(path) };
        }
        match path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("npy") => Self::open_npy(path),
            Some("npz") => Self::open_npz(path),
            _ => Self::open_file(path),
        }
    }

    pub(crate) fn open_file(path: &Path) -> Result<Self, FileError> {
        // Opening a named pipe would wait for its other end.
        if !metadata(path).map_err(FileError::Open)?.is_file() {
            return Err(FileError::NotRegular);
        }
        let mut file = File::open(path).map_err(FileError::Open)?;
        let metadata = file.metadata().map_err(FileError::Open)?;
        let (length, stamp) = (metadata.len(), FileStamp::of(&metadata));
        let tensors = header::read(&mut file, length)?;
        let mut blocks = Vec::with_capacity(tensors.len());
        let mut first: Option<(String, usize)> = None;
        for Tensor { name, dtype, shape, start } in tensors {
            if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) {
                return Err(FileError::Type { block: name, found: dtype });
            }
            let (samples, rows, cols) = sides(&name, &shape)?;
            let (other, expected) = first.get_or_insert_with(|| (name.clone(), samples));
            if samples != *expected {
                let (other, expected) = (other.clone(), *expected);
                return Err(FileError::SampleCount { block: name, found: samples, other, expected });
            }
            let pieces = vec![Piece { file: 0, start, samples, stride: None }];
            blocks.push(StoredBlock { block: Block::new(name, rows, cols), dtype, shape, pieces });
        }
        let (_, samples) = first.ok_or(FileError::NoBlocks)?;
        let mut contents = Contents::new(path, file, length, stamp);
        contents.hash_to(blocks[0].pieces[0].start).map_err(FileError::Open)?;
        let files = vec![Mutex::new(contents)];
        Ok(Self { path: path.to_owned(), length, samples, blocks, files, vouched: None })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The hash of all shards of an index, which its journal vouches for.
    pub(crate) fn vouched(&self) -> Option<&str> {
        self.vouched.as_deref()
    }

    /// `n`, the number of samples, at least one.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The blocks, at least one.
    pub fn blocks(&self) -> &[StoredBlock] {
        &self.blocks
    }

    /// The position of the block of that name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.blocks.iter().position(|stored| stored.block.name == name)
    }

    /// Reads some samples of a block, `[samples, rows, cols]`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or was changed since it was opened.
    ///
    /// # Panics
    ///
    /// If there is no such block or sample.
    pub fn read(&self, block: usize, samples: Range<usize>, precision: Precision) -> Result<TensorData, FileError> {
        assert!(samples.start <= samples.end && samples.end <= self.samples, "samples {samples:?} of {}", self.samples);
        let shape = [samples.len(), self.blocks[block].block.rows, self.blocks[block].block.cols];
        match precision {
            Precision::Single => Ok(TensorData::new(self.values::<f32>(block, samples)?, shape)),
            Precision::Double => Ok(TensorData::new(self.values::<f64>(block, samples)?, shape)),
        }
    }

    fn values<T: Target>(&self, block: usize, samples: Range<usize>) -> Result<Vec<T>, FileError> {
        let stored = &self.blocks[block];
        let (parameters, width) = (stored.block.parameters(), stored.dtype.bitsize() / 8);
        let failed = |source| FileError::Read { block: stored.block.name.clone(), source };
        let mut values = vec![T::zeroed(); samples.len() * parameters];
        let (mut first, mut out) = (0, values.as_mut_slice());
        for piece in &stored.pieces {
            let taken = samples.start.max(first)..samples.end.min(first + piece.samples);
            if !taken.is_empty() {
                let own = (parameters * width) as u64;
                let stride = piece.stride.unwrap_or(own);
                let start = piece.start + (taken.start - first) as u64 * stride;
                let (here, rest) = out.split_at_mut(taken.len() * parameters);
                out = rest;
                let mut contents = self.contents(piece.file);
                let read = if stride == own {
                    contents.values(start, here, stored.dtype)
                } else {
                    let mut rows = here.chunks_mut(parameters).zip(0..);
                    rows.try_for_each(|(row, at)| contents.values(start + at * stride, row, stored.dtype))
                };
                // A file that became shorter was changed, too.
                if !contents.is_unchanged().map_err(failed)? {
                    return Err(FileError::Changed);
                }
                read.map_err(failed)?;
                if contents.is_damaged() {
                    let file = contents.path().display().to_string();
                    return Err(FileError::Damaged { block: stored.block.name.clone(), file });
                }
            }
            first += piece.samples;
        }
        Ok(values)
    }

    /// The first NaN or infinite value of a sample in a block.
    ///
    /// # Errors
    ///
    /// As [`GradientFile::read`].
    ///
    /// # Panics
    ///
    /// As [`GradientFile::read`].
    pub fn first_bad_value(&self, block: usize, sample: usize) -> Result<Option<BadValue>, FileError> {
        let data = self.read(block, sample..sample + 1, Precision::Double)?;
        let values = data.as_slice::<f64>().expect("the values were read as f64");
        let stored = &self.blocks[block];
        Ok(values.iter().position(|v| !v.is_finite()).map(|at| BadValue {
            block: stored.block.name.clone(),
            index: match stored.shape[..] {
                [_, _, cols] => vec![at / cols, at % cols],
                _ => vec![at],
            },
            value: values[at],
        }))
    }

    /// The first NaN or infinity of the file, block by block, with its sample.
    ///
    /// # Errors
    ///
    /// As [`GradientFile::read`].
    pub fn first_non_finite(&self) -> Result<Option<(usize, BadValue)>, FileError> {
        for (block, stored) in self.blocks.iter().enumerate() {
            let parameters = stored.block.parameters();
            let step = (SCANNED / parameters).max(1);
            for start in (0..self.samples).step_by(step) {
                let data = self.read(block, start..self.samples.min(start + step), Precision::Double)?;
                let values = data.as_slice::<f64>().expect("the values were read as f64");
                if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                    let sample = start + at / parameters;
                    return Ok(self.first_bad_value(block, sample)?.map(|bad| (sample, bad)));
                }
            }
        }
        Ok(None)
    }

    /// The XXH3 hash (128 bits, as `xxhsum -H2` prints it) of the whole file; of a folder that of its shards' hashes.
    ///
    /// Bytes are hashed when they are first read; the rest of the file is read now.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or was changed since it was opened.
    pub fn fingerprint(&self) -> Result<String, FileError> {
        if self.is_folder() {
            return self.fingerprint_of_shards();
        }
        let mut contents = self.contents(0);
        let hash = contents.hash_to(self.length);
        if !contents.is_unchanged().map_err(FileError::Open)? {
            return Err(FileError::Changed);
        }
        let hash = hash.map_err(FileError::Open)?;
        Ok(format!("{hash:032x}"))
    }

    /// The bytes that [`GradientFile::fingerprint`] must still read, after which it remembers the hash. 0 for an index,
    /// whose journal has hashes, and for other folders, whose shards are read each time.
    #[must_use]
    pub fn unhashed(&self) -> u64 {
        if self.is_folder() { 0 } else { self.length - self.contents(0).hashed() }
    }

    /// Whether it consists of shards, if only of one.
    fn is_folder(&self) -> bool {
        self.files.len() > 1 || self.contents(0).is_shard()
    }

    fn contents(&self, file: usize) -> MutexGuard<'_, Contents> {
        self.files[file].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
