//! A short excerpt of a file that distinguishes it from others without reading all of it.

use std::collections::BTreeSet;

use twox_hash::XxHash3_128;

use super::{FileError, GradientFile, StoredBlock};

/// Blocks of which numbers are read, samples of each block, and numbers of each sample.
const BLOCKS: usize = 64;
const SAMPLES: usize = 4;
const NUMBERS: usize = 256;

impl GradientFile {
    /// The XXH3 hash (128 bits) of names, shapes and types, and of some numbers of some samples: files of other gradients
    /// have another one, even where the shapes are the same. Numbers that were changed between those are not seen; for
    /// that there is [`GradientFile::fingerprint`], which reads everything.
    ///
    /// # Errors
    ///
    /// As [`GradientFile::read`].
    pub fn excerpt(&self) -> Result<String, FileError> {
        let mut hasher = XxHash3_128::new();
        for StoredBlock { block, dtype, shape, .. } in &self.blocks {
            hasher.write(format!("{}\0{dtype:?} {shape:?}\n", block.name).as_bytes());
        }
        let samples = spread(self.samples, SAMPLES);
        for block in spread(self.blocks.len(), BLOCKS) {
            for &sample in &samples {
                for number in self.beginning(block, sample)? {
                    hasher.write(&number.to_bits().to_le_bytes());
                }
            }
        }
        Ok(format!("{:032x}", hasher.finish_128()))
    }

    /// The first numbers of a sample.
    fn beginning(&self, block: usize, sample: usize) -> Result<Vec<f64>, FileError> {
        let stored = &self.blocks[block];
        let (parameters, width) = (stored.block.parameters(), stored.dtype.bitsize() / 8);
        let failed = |source| FileError::Read { block: stored.block.name.clone(), source };
        let mut numbers = vec![0.0; parameters.min(NUMBERS)];
        let mut first = 0;
        for piece in &stored.pieces {
            if (first..first + piece.samples).contains(&sample) {
                let stride = piece.stride.unwrap_or((parameters * width) as u64);
                let mut contents = self.contents(piece.file);
                let read = contents.values(piece.start + (sample - first) as u64 * stride, &mut numbers, stored.dtype);
                if !contents.is_unchanged().map_err(failed)? {
                    return Err(FileError::Changed);
                }
                read.map_err(failed)?;
            }
            first += piece.samples;
        }
        Ok(numbers)
    }
}

/// At most `most` of so many places, the first and the last among them.
fn spread(count: usize, most: usize) -> BTreeSet<usize> {
    (0..most.min(count)).map(|place| place * (count - 1) / (most.min(count).max(2) - 1)).collect()
}
