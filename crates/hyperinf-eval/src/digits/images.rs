use std::io::Read;

use flate2::read::GzDecoder;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::TruthError;

/// Pixels per image.
pub const PIXELS: usize = 64;
/// Classes: the ten digits.
pub const CLASSES: usize = 10;

/// The packed file; see `assets/README.md`.
const PACKED: &[u8] = include_bytes!("../../assets/digits.bin.gz");

/// Images with their labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Images {
    /// Pixels row by row, `[n, 64]`, from 0 (white) to 1 (black): the file's value over 16.
    pub pixels: Vec<f64>,
    /// The label of each image, 0 to 9, `[n]`.
    pub labels: Vec<usize>,
}

/// The 1,797 images of 8 × 8 pixels of the UCI set *Optical Recognition of Handwritten Digits*, in the file's order.
///
/// # Errors
///
/// If the built-in data are damaged.
pub fn digits() -> Result<Images, TruthError> {
    let mut bytes = Vec::new();
    GzDecoder::new(PACKED).read_to_end(&mut bytes).map_err(TruthError::Digits)?;
    let mut images = Images::default();
    for record in bytes.chunks_exact(PIXELS + 1) {
        images.pixels.extend(record[..PIXELS].iter().map(|&value| f64::from(value) / 16.0));
        images.labels.push(usize::from(record[PIXELS]));
    }
    Ok(images)
}

impl Images {
    /// The number of images, `n`.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pixels of an image.
    ///
    /// # Panics
    ///
    /// If an index is out of range.
    pub fn image(&self, index: usize) -> &[f64] {
        &self.pixels[index * PIXELS..(index + 1) * PIXELS]
    }

    /// The images at these indices, in this order.
    ///
    /// # Panics
    ///
    /// If an index is out of range.
    pub fn of(&self, indices: &[usize]) -> Self {
        let pixels = indices.iter().flat_map(|&i| self.image(i)).copied().collect();
        Self { pixels, labels: indices.iter().map(|&i| self.labels[i]).collect() }
    }

    /// Random training images, and other random images as queries.
    ///
    /// # Errors
    ///
    /// If either set is empty, or both together exceed the number of images.
    pub fn split(&self, train: usize, queries: usize, seed: u64) -> Result<(Self, Self), TruthError> {
        for (name, value) in [("training images", train), ("queries", queries)] {
            if value == 0 || train + queries > self.len() {
                let expected = format!("at least 1, and both together at most {}", self.len());
                return Err(TruthError::Setting { name, expected, value: value as f64 });
            }
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        Ok((self.of(&order[..train]), self.of(&order[train..train + queries])))
    }

    /// Gives `round(share · n)` random images one of the nine wrong labels and returns which, `[n]`.
    ///
    /// # Errors
    ///
    /// If the share is not in [0, 1].
    pub fn mislabel(&mut self, share: f64, seed: u64) -> Result<Vec<bool>, TruthError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(TruthError::Setting { name: "share", expected: "between 0 and 1".into(), value: share });
        }
        let mut flipped = vec![false; self.len()];
        flipped[..(share * self.len() as f64).round() as usize].fill(true);
        let mut rng = StdRng::seed_from_u64(seed);
        flipped.shuffle(&mut rng);
        for (label, _) in self.labels.iter_mut().zip(&flipped).filter(|(_, flipped)| **flipped) {
            let wrong: Vec<usize> = (0..CLASSES).filter(|class| class != label).collect();
            *label = *wrong.choose(&mut rng).expect("nine classes are wrong");
        }
        Ok(flipped)
    }
}
