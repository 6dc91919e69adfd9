//! Indexes: the gradients of training rows in a folder, which is built once, asked often, and extended.
//!
//! | file | content |
//! |---|---|
//! | `manifest.json` | the [`Manifest`]: what the numbers depend on, the resolved settings, blocks, sources and leaves |
//! | `leaf-00000.safetensors`, … | the gradients of a leaf's rows, one tensor per block: a file of gradients by itself |
//! | `leaf-00000.rows.jsonl`, … | the leaf's rows: [`StoredRow`] |
//! | `journal.jsonl` | a line per finished leaf with the hashes of its files: [`Record`] |
//! | `index.json` | the shards of each block, in the order of the samples |
//! | `sketch-00000.safetensors`, … | a leaf's rows at one byte a number: [`Sketches`](crate::Sketches), from the leaf alone |
//!
//! A *leaf* is so many consecutive rows: their number is fixed when the index is begun, never by who computes them.
//! Within a leaf, batches are of rows of similar length. Rows that are added later form leaves of their own, so that
//! finished leaves never change. Every text has a seal, the hash of all its other bytes.

mod error;
mod journal;
mod manifest;
mod rows;
mod seal;
mod verify;
mod writer;

use std::path::{Path, PathBuf};

use hyperinf_gradients::Block;
use twox_hash::XxHash3_128;

use crate::GradientFile;
pub use error::IndexError;
pub use journal::Record;
pub use manifest::{Leaf, Manifest, SourceFile, StoredSides};
pub use rows::{StoredGuess, StoredRow};
pub use verify::{Fault, FaultKind};
pub use writer::{Begun, IndexWriter};

/// The file that makes a folder an index.
pub const MANIFEST: &str = "manifest.json";
/// The file with a line per finished leaf.
pub(crate) const JOURNAL: &str = "journal.jsonl";

/// An index, open for reading.
#[derive(Clone, Debug)]
pub struct IndexFolder {
    path: PathBuf,
    manifest: Manifest,
    /// The record of each leaf that is finished.
    records: Vec<Option<Record>>,
}

/// The name of a leaf's gradients.
pub(crate) fn shard_name(leaf: usize) -> String {
    format!("leaf-{leaf:05}.safetensors")
}

/// The name of a leaf's rows.
pub(crate) fn rows_name(leaf: usize) -> String {
    format!("leaf-{leaf:05}.rows.jsonl")
}

impl IndexFolder {
    /// Opens an index: its manifest and its journal are read.
    ///
    /// # Errors
    ///
    /// If it is not an index, damaged, or of a newer schema.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let manifest = Manifest::read(path)?;
        let records = journal::read(path, &manifest)?.records;
        Ok(Self { path: path.to_owned(), manifest, records })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The record of a leaf that is finished.
    pub(crate) fn record(&self, leaf: usize) -> Option<&Record> {
        self.records.get(leaf)?.as_ref()
    }

    /// The leaves that are not finished.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.records.len()).filter(|&leaf| self.records[leaf].is_none()).collect()
    }

    /// Whether the run that built it reached its end: all leaves are finished, the journal has them in their order, and
    /// the list of shards is there. What an interrupted run left is completed by an [`IndexWriter`].
    pub fn is_finished(&self) -> bool {
        let journal = || journal::read(&self.path, &self.manifest).is_ok_and(|found| found.canonical);
        self.missing().is_empty() && self.is_listed() && journal()
    }

    /// The gradients of all rows, in their order.
    ///
    /// # Errors
    ///
    /// If a leaf is not finished, or a shard is missing or not what the journal says.
    pub fn gradients(&self) -> Result<GradientFile, IndexError> {
        let missing = self.missing().len();
        if missing > 0 {
            let leaves = self.records.len();
            return Err(IndexError::Incomplete { path: self.path.clone(), finished: leaves - missing, leaves });
        }
        let records: Vec<Record> = self.records.iter().flatten().cloned().collect();
        let mut vouched = XxHash3_128::new();
        records.iter().for_each(|record| vouched.write(format!("{}\n", record.xxh3_128).as_bytes()));
        let vouched = format!("{:032x}", vouched.finish_128());
        let failed = |source| IndexError::Gradients { path: self.path.clone(), source: Box::new(source) };
        let file = GradientFile::of_leaves(&self.path, &records, vouched).map_err(failed)?;
        let found: Vec<Block> = file.blocks().iter().map(|stored| stored.block.clone()).collect();
        if found != self.manifest.layout() || file.samples() != self.manifest.rows() {
            let reason = "its shards have other blocks or rows than its manifest says".to_owned();
            return Err(IndexError::Damaged { path: self.path.join(MANIFEST), reason });
        }
        Ok(file)
    }

    /// The rows of a leaf.
    ///
    /// # Errors
    ///
    /// If the leaf is not finished, or its file is not what the journal says.
    ///
    /// # Panics
    ///
    /// If there is no such leaf.
    pub fn rows(&self, leaf: usize) -> Result<Vec<StoredRow>, IndexError> {
        rows::read(&self.path, self.finished(leaf)?, self.manifest.leaves[leaf].rows)
    }

    /// Some rows of a leaf, in the order of their places in it, which are counted from 0. The file's hash is checked;
    /// only these rows are parsed.
    ///
    /// # Errors
    ///
    /// As [`rows`](Self::rows).
    ///
    /// # Panics
    ///
    /// If there is no such leaf or place.
    pub fn rows_at(&self, leaf: usize, places: &[usize]) -> Result<Vec<StoredRow>, IndexError> {
        rows::read_some(&self.path, self.finished(leaf)?, self.manifest.leaves[leaf].rows, places)
    }

    fn finished(&self, leaf: usize) -> Result<&Record, IndexError> {
        self.records[leaf].as_ref().ok_or_else(|| {
            let finished = self.records.iter().flatten().count();
            IndexError::Incomplete { path: self.path.clone(), finished, leaves: self.records.len() }
        })
    }

    /// The leaf of a sample, and the sample's place in it.
    ///
    /// # Panics
    ///
    /// If there is no such sample.
    pub fn locate(&self, sample: usize) -> (usize, usize) {
        let leaves = &self.manifest.leaves;
        let leaf = leaves.partition_point(|leaf| leaf.first + leaf.rows <= sample);
        (leaf, sample - leaves[leaf].first)
    }
}
