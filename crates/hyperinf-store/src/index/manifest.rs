use std::fs::{File, metadata};
use std::io::{self, Read, Write};
use std::path::Path;

use hyperinf_gradients::Block;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use twox_hash::XxHash3_128;

use super::{IndexError, MANIFEST, seal};
use crate::{KeyDifference, RunKey, Staged};

/// The schema of manifests that are written.
const SCHEMA: u32 = 1;
/// The longest manifest that is read, in bytes.
const LONGEST: u64 = 256 << 20;

/// `manifest.json`: what an index holds, and what its numbers depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format.
    pub schema: u32,
    /// The version of the program that began it; another one may go on.
    pub program: String,
    /// Everything that changes a number, by name.
    pub key: RunKey,
    /// The resolved settings, from which queries and repairs are computed.
    pub settings: Value,
    /// The blocks as they are stored, in their order.
    pub blocks: Vec<StoredSides>,
    /// The type of the numbers: `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// The most rows of a leaf.
    pub leaf_rows: usize,
    /// The files that the rows are of, in the order of the rows.
    pub sources: Vec<SourceFile>,
    /// The leaves, in the order of the rows.
    pub leaves: Vec<Leaf>,
}

/// A block as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSides {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub cols: usize,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// The path as it was given.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// XXH3 of the whole file, 128 bits.
    pub xxh3_128: String,
    /// All its rows, also those that were left out.
    pub total: usize,
    /// Those in the index.
    pub rows: usize,
}

/// Consecutive rows whose gradients are one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// The place of its file in [`Manifest::sources`].
    pub source: usize,
    /// Its first row in the index.
    pub first: usize,
    /// The number of its rows.
    pub rows: usize,
    /// XXH3 of its samples, 128 bits: everything in a row that its gradient depends on.
    pub samples: String,
}

impl Manifest {
    /// A manifest without rows.
    pub fn new(key: RunKey, settings: Value, blocks: &[Block], dtype: &str, leaf_rows: usize) -> Self {
        let sides = |block: &Block| StoredSides { name: block.name.clone(), rows: block.rows, cols: block.cols };
        Self {
            schema: SCHEMA,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            key,
            settings,
            blocks: blocks.iter().map(sides).collect(),
            dtype: dtype.to_owned(),
            leaf_rows,
            sources: Vec::new(),
            leaves: Vec::new(),
        }
    }

    /// All rows.
    pub fn rows(&self) -> usize {
        self.leaves.last().map_or(0, |leaf| leaf.first + leaf.rows)
    }

    /// The blocks.
    pub fn layout(&self) -> Vec<Block> {
        self.blocks.iter().map(|block| Block::new(block.name.clone(), block.rows, block.cols)).collect()
    }

    /// A hash of what its numbers depend on.
    pub(crate) fn identity(&self) -> String {
        let content = serde_json::json!([self.key, self.blocks, self.dtype, self.leaf_rows, self.leaves]);
        format!("{:032x}", XxHash3_128::oneshot(content.to_string().as_bytes()))
    }

    /// What a leaf's numbers depend on.
    ///
    /// # Panics
    ///
    /// If there is no such leaf.
    pub fn leaf_key(&self, leaf: usize) -> RunKey {
        let mut key = self.key.clone();
        key.0.insert("rows' content".to_owned(), self.leaves[leaf].samples.clone());
        key
    }

    /// A hash of [`Manifest::leaf_key`], the blocks and the type of the numbers.
    pub(super) fn leaf_hash(&self, leaf: usize) -> String {
        let content = serde_json::json!([self.leaf_key(leaf), self.blocks, self.dtype, self.leaves[leaf].rows]);
        format!("{:032x}", XxHash3_128::oneshot(content.to_string().as_bytes()))
    }

    /// What differs between this manifest and that of another run, but for rows and settings.
    pub(super) fn differences(&self, now: &Self) -> Vec<KeyDifference> {
        let mut all = self.key.differences(&now.key);
        let fields = [
            ("the type of the numbers", self.dtype.clone(), now.dtype.clone()),
            ("the rows of a leaf", self.leaf_rows.to_string(), now.leaf_rows.to_string()),
        ];
        let changed = fields.into_iter().filter(|(_, before, now)| before != now);
        all.extend(changed.map(|(what, before, now)| KeyDifference { what: what.to_owned(), before, now }));
        if all.is_empty() && self.blocks != now.blocks {
            let [before, now] = [self, now].map(|manifest| format!("{} blocks", manifest.blocks.len()));
            all.push(KeyDifference { what: "the blocks' names or sides".to_owned(), before, now });
        }
        all
    }

    pub(super) fn read(folder: &Path) -> Result<Self, IndexError> {
        let path = folder.join(MANIFEST);
        let none = |source| IndexError::NoIndex { path: folder.to_owned(), source };
        let found = metadata(&path).map_err(none)?;
        if !found.is_file() || found.len() > LONGEST {
            return Err(none(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not a regular file of at most 256 MiB",
            )));
        }
        let mut bytes = Vec::new();
        File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(none)?;
        let damaged = |reason: String| IndexError::Damaged { path: path.clone(), reason };
        #[derive(Deserialize)]
        struct Schema {
            schema: u64,
        }
        let Schema { schema } =
            serde_json::from_slice(&bytes).map_err(|error| damaged(format!("it has no schema: {error}")))?;
        if schema > u64::from(SCHEMA) {
            return Err(IndexError::Newer { path: folder.to_owned(), found: schema, known: SCHEMA });
        }
        if !seal::is_intact(&bytes) {
            return Err(damaged("its seal is not that of its bytes".into()));
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// Whether its parts fit each other: a seal can be made by anybody.
    fn check(&self) -> Result<(), String> {
        let (mut next, mut source, mut of_source) = (0_usize, 0, vec![0_usize; self.sources.len()]);
        for (number, leaf) in self.leaves.iter().enumerate() {
            let fits = leaf.first == next && leaf.rows > 0 && (source..self.sources.len()).contains(&leaf.source);
            next = next.checked_add(leaf.rows).filter(|_| fits).ok_or_else(|| format!("leaf {number} does not fit"))?;
            source = leaf.source;
            of_source[source] += leaf.rows;
        }
        let all = self.sources.iter().try_fold(0_usize, |sum, source| sum.checked_add(source.total));
        if all.is_none() || self.sources.iter().zip(&of_source).any(|(source, rows)| source.rows != *rows) {
            return Err("its files have other rows than its leaves".into());
        }
        let sides = |block: &StoredSides| block.rows.checked_mul(block.cols).filter(|parameters| *parameters > 0);
        if self.blocks.is_empty() || self.leaves.is_empty() || self.leaf_rows == 0 {
            return Err("it has no blocks or no rows".into());
        }
        match self.blocks.iter().find(|block| sides(block).is_none()) {
            Some(block) => Err(format!("block `{}` is {} × {}", block.name, block.rows, block.cols)),
            None => Ok(()),
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), IndexError> {
        let path = folder.join(MANIFEST);
        let staged = Staged::new(&path, |file| Ok(file.write_all(&seal::seal(self, true)?)?))?;
        Ok(staged.place()?)
    }
}
