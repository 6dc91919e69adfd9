use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::StoredType;
use super::journal::{BatchHash, Done, fill};

/// The batches that a journal records of a file of gradients, for whoever compares their hashes with the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedBatches {
    /// The file.
    pub path: PathBuf,
    pub(super) stored: StoredType,
    pub(super) samples: usize,
    /// The first byte of each block, and its parameters.
    pub(super) sides: Vec<(u64, usize)>,
    pub(super) batches: Vec<Done>,
}

/// Says of each recorded batch whether it is intact.
pub type Check<'a> = dyn FnMut(&RecordedBatches) -> io::Result<Vec<bool>> + 'a;

impl RecordedBatches {
    /// The places of all batches.
    #[must_use]
    pub fn all(&self) -> Vec<usize> {
        (0..self.batches.len()).collect()
    }

    /// Of each of these batches whether its hash is that of the file. A file that cannot be read is not intact.
    ///
    /// # Panics
    ///
    /// If there is no such batch.
    #[must_use]
    pub fn intact(&self, places: &[usize]) -> Vec<bool> {
        let Ok(mut file) = File::open(&self.path) else { return vec![false; places.len()] };
        let mut is_intact = |&place: &usize| {
            let Done { samples, losses, xxh3_128 } = &self.batches[place];
            self.hash(&mut file, samples, losses).is_some_and(|hash| hash == *xxh3_128)
        };
        places.iter().map(&mut is_intact).collect()
    }

    /// The hash of a recorded batch in the file; none if the record or the file cannot be right.
    fn hash(&self, file: &mut File, samples: &[usize], losses: &[u64]) -> Option<String> {
        let mut distinct = HashSet::new();
        let known = |&sample: &usize| sample < self.samples && distinct.insert(sample);
        if samples.len() != losses.len() || !samples.iter().all(known) {
            return None;
        }
        let mut hash = BatchHash::new(samples, losses);
        for &(start, parameters) in &self.sides {
            let mut bytes = vec![0; parameters * self.stored.bytes()];
            for &sample in samples {
                if !fill(file, start + (sample * bytes.len()) as u64, &mut bytes) {
                    return None;
                }
                hash.add(&bytes);
            }
        }
        Some(hash.text())
    }
}
