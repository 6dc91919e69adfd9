//! Sketches: an index's rows at one byte a number, from which most rows are known not to be among a query's extremes.
//!
//! A leaf's sketch lies next to it, in `sketch-00000.safetensors`: the bytes, the scales of groups of them, and the hash
//! of each row's numbers. It can be computed from the leaf at any time, so it is neither part of the manifest nor of the
//! journal: it names the hash of the shard that it is of, and carries a seal.

pub(crate) mod file;

use std::sync::atomic::{AtomicUsize, Ordering};

use hyperinf_linalg::{Bounded, ByteGroups, ByteProbe, ByteRows};
use hyperinf_scoring::Set;
use rayon::prelude::*;
use twox_hash::XxHash3_128;

use crate::{GradientFile, IndexFolder, Leaf, Precision, StoreError, available};
use file::Sketch;

/// Bytes of rows that are rounded at once.
const PIECE: usize = 64 << 20;
/// The share of the memory that sketches may be held in.
const SHARE: f64 = 0.5;

/// The sketches of an index's leaves.
pub struct Sketches {
    index: IndexFolder,
    groups: ByteGroups,
    keep: bool,
    /// In memory, from the first use on.
    held: Option<Vec<Sketch>>,
    /// Leaves whose sketch was not there.
    built: AtomicUsize,
}

/// Products of some queries with every row.
pub(crate) struct Known {
    /// `[queries, rows]`.
    pub(crate) products: Vec<Vec<Bounded>>,
    /// The hash of each row's numbers.
    pub(crate) hashes: Vec<u64>,
}

impl Sketches {
    /// Those of an index; a sketch that is not there is computed when it is needed, and kept if `keep` says so and the
    /// folder can be written.
    pub fn new(index: &IndexFolder, keep: bool) -> Self {
        let groups = groups(index);
        Self { index: index.clone(), groups, keep, held: None, built: AtomicUsize::new(0) }
    }

    /// Reads all sketches into memory, if they are no more than half of what is free. Whether they are in memory.
    ///
    /// # Errors
    ///
    /// If a leaf's gradients cannot be read.
    pub fn hold(&mut self, gradients: &GradientFile) -> Result<bool, StoreError> {
        let bytes = self.bytes();
        if self.held.is_none() && available().is_none_or(|free| bytes <= SHARE * free) {
            let leaves = self.index.manifest().leaves.len();
            let all: Result<Vec<Option<Sketch>>, StoreError> =
                (0..leaves).into_par_iter().map(|leaf| self.leaf(gradients, leaf)).collect();
            self.held = all?.into_iter().collect();
        }
        Ok(self.held.is_some())
    }

    /// Their bytes in memory, about those on the disk.
    pub fn bytes(&self) -> f64 {
        let row = self.groups.width() + self.groups.count() * size_of::<f32>() + size_of::<u64>();
        self.index.manifest().rows() as f64 * row as f64
    }

    /// The leaves whose sketch was computed, because it was not there or was damaged.
    pub fn built(&self) -> usize {
        self.built.load(Ordering::Relaxed)
    }

    pub(crate) fn groups(&self) -> &ByteGroups {
        &self.groups
    }

    /// The products of queries with all rows, up to bounds; `None` if a row has numbers that cannot be rounded.
    pub(crate) fn products(&self, gradients: &GradientFile, probes: &[ByteProbe]) -> Result<Option<Known>, StoreError> {
        let of = |sketch: &Sketch| {
            let products: Vec<Vec<Bounded>> =
                probes.iter().map(|probe| probe.products(sketch.numbers(), &sketch.scales)).collect();
            (products, sketch.hashes.clone())
        };
        let leaves: Vec<(Vec<Vec<Bounded>>, Vec<u64>)> = match &self.held {
            Some(held) => held.par_iter().map(of).collect(),
            None => {
                let leaves = 0..self.index.manifest().leaves.len();
                let read = |leaf| Ok(self.leaf(gradients, leaf)?.map(|sketch| of(&sketch)));
                let all = leaves.into_par_iter().map(read).collect::<Result<Option<Vec<_>>, StoreError>>()?;
                let Some(all) = all else { return Ok(None) };
                all
            }
        };
        let mut known = Known { products: vec![Vec::new(); probes.len()], hashes: Vec::new() };
        for (products, hashes) in leaves {
            known.products.iter_mut().zip(products).for_each(|(all, more)| all.extend(more));
            known.hashes.extend(hashes);
        }
        Ok(Some(known))
    }

    /// The sketch of a leaf: the one that is there, or a new one; `None` if its numbers cannot be rounded.
    fn leaf(&self, gradients: &GradientFile, leaf: usize) -> Result<Option<Sketch>, StoreError> {
        let (path, key) = file::place(&self.index, leaf);
        let rows = self.index.manifest().leaves[leaf].rows;
        if let Some(found) = Sketch::read(&path, &key, rows, &self.groups) {
            return Ok(Some(found));
        }
        let Some(rounded) = self.rounded(gradients, leaf)? else { return Ok(None) };
        let found = Sketch::of(&rounded, &key, rows, &self.groups);
        self.built.fetch_add(1, Ordering::Relaxed);
        if self.keep {
            // Without it the next run takes longer, no more.
            let _ = found.save(&path);
        }
        Ok(Some(found))
    }

    /// The rows of a leaf, rounded, with their hashes.
    fn rounded(&self, gradients: &GradientFile, leaf: usize) -> Result<Option<(ByteRows, Vec<u64>)>, StoreError> {
        let failed = |source| StoreError::File { set: Set::Train, path: gradients.path().to_owned(), source };
        let Leaf { first, rows, .. } = self.index.manifest().leaves[leaf];
        let width = self.groups.width();
        let step = (PIECE / (width * size_of::<f32>())).clamp(1, rows);
        let (mut all, mut hashes) = (ByteRows::default(), Vec::with_capacity(rows));
        for start in (0..rows).step_by(step) {
            let taken = step.min(rows - start);
            let (mut values, mut column) = (vec![0.0_f32; taken * width], 0);
            for (block, stored) in gradients.blocks().iter().enumerate() {
                let samples = first + start..first + start + taken;
                let data = gradients.read(block, samples, Precision::Single).map_err(failed)?;
                let numbers = data.as_slice::<f32>().expect("the values were read as this type");
                let own = stored.block.parameters();
                for (row, numbers) in values.chunks_mut(width).zip(numbers.chunks(own)) {
                    row[column..column + own].copy_from_slice(numbers);
                }
                column += own;
            }
            hashes.extend(values.chunks(width).map(hash));
            let seed = ((leaf as u64) << 32) | start as u64;
            let Some(found) = ByteRows::new(&self.groups, &values, seed) else { return Ok(None) };
            all.numbers.extend(found.numbers);
            all.scales.extend(found.scales);
        }
        Ok(Some((all, hashes)))
    }
}

/// The hash of a row's numbers.
pub(crate) fn hash(row: &[f32]) -> u64 {
    XxHash3_128::oneshot(bytemuck::cast_slice(row)) as u64
}

/// The groups of the rows of an index.
pub(crate) fn groups(index: &IndexFolder) -> ByteGroups {
    ByteGroups::new(index.manifest().blocks.iter().map(|block| block.rows * block.cols))
}
