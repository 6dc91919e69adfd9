use std::io;

use safetensors::{Dtype, SafeTensorError};

use crate::index::IndexError;

/// Why a file cannot be used as gradients.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file cannot be opened, or its beginning cannot be read.
    #[error("it cannot be read")]
    Open(#[source] io::Error),
    /// A folder without a list of shards, a pipe or a device.
    #[error("it is not a regular file, nor a folder with an `index.json`")]
    NotRegular,
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Too short for the length of a header.
    #[error("it is not a safetensors file: it has {length} bytes, and a header's length alone takes 8")]
    Short {
        /// Bytes in the file.
        length: u64,
    },
    /// The length of the header cannot be true.
    #[error(
        "it is truncated or not a safetensors file: its first 8 bytes announce a header of {header} bytes, but the file has {length} (and the format allows 100 MB)"
    )]
    HeaderLength {
        /// Bytes announced.
        header: u64,
        /// Bytes in the file.
        length: u64,
    },
    /// The header is not the JSON that the format asks for.
    #[error("it is not a safetensors file: its header is not a JSON object of tensors")]
    Json(#[source] serde_json::Error),
    /// The tensors that the header describes do not lie one after another.
    #[error("its safetensors header contradicts itself")]
    Layout(#[source] SafeTensorError),
    /// Two tensors of one name.
    #[error("block `{block}` is there twice")]
    Twice {
        /// The block's name.
        block: String,
    },
    /// The numbers end early.
    #[error("it is truncated: its header describes {expected} bytes, the file has {found}")]
    Truncated {
        /// Bytes that the header describes, itself included.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// There is more than the header describes.
    #[error("it is damaged: its header describes {expected} bytes, the file has {found}")]
    Trailing {
        /// Bytes that the header describes, itself included.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// No tensor at all.
    #[error("it has no blocks: expected one tensor per block")]
    NoBlocks,
    /// A tensor of integers, truth values or another kind of float.
    #[error("block `{block}` has values of type {found}, expected F32, F16, BF16 or F64")]
    Type {
        /// The block's name.
        block: String,
        /// Its type.
        found: Dtype,
    },
    /// A tensor of another rank.
    #[error("block `{block}` has the shape {shape:?}, expected [samples, rows, cols] or [samples, parameters]")]
    Rank {
        /// The block's name.
        block: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor without samples.
    #[error("block `{block}` has the shape {shape:?}: 0 samples, expected at least 1")]
    NoSamples {
        /// The block's name.
        block: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor whose samples have no numbers.
    #[error("block `{block}` has the shape {shape:?}: 0 parameters, expected at least 1")]
    NoParameters {
        /// The block's name.
        block: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Blocks of different lengths.
    #[error("block `{block}` has {found} samples, expected {expected} as in block `{other}`")]
    SampleCount {
        /// The block's name.
        block: String,
        /// Its samples.
        found: usize,
        /// An earlier block.
        other: String,
        /// That block's samples.
        expected: usize,
    },
    /// A folder without a readable list of its shards.
    #[error("it is a folder, and its `index.json`, which lists the shards, cannot be read")]
    NoList(#[source] io::Error),
    /// An `index.json` that does not list shards.
    #[error("its `index.json` has no `weight_map` of blocks and files")]
    List(#[source] serde_json::Error),
    /// A shard that is not a file of the folder.
    #[error("its `index.json` names the shard `{name}`, expected a file in the folder")]
    ShardName {
        /// The name.
        name: String,
    },
    /// A shard cannot be used.
    #[error("its shard `{name}` cannot be used")]
    Shard {
        /// The shard.
        name: String,
        /// Why.
        source: Box<FileError>,
    },
    /// A shard lacks a block that the list says it has.
    #[error("block `{block}` is not in `{name}`, which should have it")]
    NotInShard {
        /// The block.
        block: String,
        /// The shard.
        name: String,
    },
    /// A block that the list does not have.
    #[error("block `{block}` in `{name}` is not in `index.json`")]
    Unlisted {
        /// The block.
        block: String,
        /// The shard.
        name: String,
    },
    /// A block has another type or other sides than in the shards before.
    #[error("block `{block}` has another type or other sides in `{name}` than in the shards before it")]
    ShardsDiffer {
        /// The block.
        block: String,
        /// The shard.
        name: String,
    },
    /// An array of NumPy that cannot be read.
    #[error("the array `{block}` cannot be read: {reason}")]
    Array {
        /// Its name.
        block: String,
        /// Why.
        reason: String,
    },
    /// A type of numbers of NumPy that gradients do not have.
    #[error("its numbers are of the type `{found}`, expected little-endian float16, bfloat16, float32 or float64")]
    NumpyType {
        /// The type.
        found: String,
    },
    /// An archive or a folder of another program that cannot be read.
    #[error("it cannot be read: {reason}")]
    Archive {
        /// Why.
        reason: String,
    },
    /// A compressed array.
    #[error("`{name}` in it is compressed: write it with numpy.savez, not savez_compressed")]
    Compressed {
        /// The array.
        name: String,
    },
    /// A folder of bergson that is described in another way.
    #[error("its info.json does not describe gradients of rows")]
    Bergson(#[source] serde_json::Error),
    /// The folder is an index that cannot be used.
    #[error(transparent)]
    Index(Box<IndexError>),
    /// Numbers whose hash is not that of the journal.
    #[error("block `{block}` in `{file}` is damaged: its hash is not that of the journal")]
    Damaged {
        /// The block.
        block: String,
        /// The shard.
        file: String,
    },
    /// Numbers of a row whose hash is not that of its sketch.
    #[error("row {sample} is damaged: its hash is not that of the row that was sketched")]
    DamagedRow {
        /// The row's place in the index.
        sample: usize,
    },
    /// The file is not what it was when it was opened: written, replaced or moved.
    #[error("it was changed while it was read")]
    Changed,
    /// The numbers of a block cannot be read.
    #[error("block `{block}` cannot be read to its end")]
    Read {
        /// The block's name.
        block: String,
        /// Why.
        source: io::Error,
    },
}
