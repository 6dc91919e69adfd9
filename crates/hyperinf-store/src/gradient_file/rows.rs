//! Some samples of all blocks, for those who want few of many.

use super::{FileError, GradientFile};

impl GradientFile {
    /// The numbers of some samples, `[samples, D]` in f32: the blocks one after the other. What is read is not compared
    /// with hashes of whole blocks.
    ///
    /// # Errors
    ///
    /// As [`GradientFile::read`].
    ///
    /// # Panics
    ///
    /// If there is no such sample.
    pub(crate) fn rows(&self, samples: &[usize]) -> Result<Vec<f32>, FileError> {
        let width: usize = self.blocks.iter().map(|stored| stored.block.parameters()).sum();
        // File, block, its first byte, and where its numbers go.
        let mut parts: Vec<(usize, usize, u64, usize)> = Vec::with_capacity(samples.len() * self.blocks.len());
        let mut column = 0;
        for (block, stored) in self.blocks.iter().enumerate() {
            let own = (stored.block.parameters() * (stored.dtype.bitsize() / 8)) as u64;
            for (place, &sample) in samples.iter().enumerate() {
                assert!(sample < self.samples, "sample {sample} of {}", self.samples);
                let mut first = 0;
                for piece in &stored.pieces {
                    if sample < first + piece.samples {
                        let start = piece.start + (sample - first) as u64 * piece.stride.unwrap_or(own);
                        parts.push((piece.file, block, start, place * width + column));
                        break;
                    }
                    first += piece.samples;
                }
            }
            column += stored.block.parameters();
        }
        // A file is opened once, and read from its beginning to its end.
        parts.sort_unstable_by_key(|&(file, _, start, _)| (file, start));
        let mut values = vec![0.0_f32; samples.len() * width];
        for parts in parts.chunk_by(|a, b| a.0 == b.0) {
            let mut contents = self.contents(parts[0].0);
            let name = |block: usize| self.blocks[block].block.name.clone();
            let read = parts.iter().try_for_each(|&(_, block, start, at)| {
                let stored = &self.blocks[block];
                let here = &mut values[at..at + stored.block.parameters()];
                let failed = |source| FileError::Read { block: name(block), source };
                contents.values(start, here, stored.dtype).map_err(failed)
            });
            let last = parts[parts.len() - 1].1;
            // A file that became shorter was changed, too.
            if !contents.is_unchanged().map_err(|source| FileError::Read { block: name(last), source })? {
                return Err(FileError::Changed);
            }
            read?;
        }
        Ok(values)
    }
}
