use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::ModelError;
use crate::error::check;

/// How the gradients of a sample's timesteps become its gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestepsAs {
    /// The gradient of the mean loss over the timesteps: influence proper.
    #[default]
    Sum,
    /// The gradients of the timesteps, kept apart in one block: products match timesteps (Kwon et al. 2024).
    Stacked,
}

/// Whose noise a sample gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoiseSharing {
    /// All samples and queries get the same: the noise depends on its number and the shape alone.
    #[default]
    Shared,
    /// Each sample gets noise of its own, which follows from its content.
    PerSample,
}

/// The `K` pairs of a timestep and noise that a sample's loss is averaged over.
///
/// With shared noise the products of two samples' gradients compare the samples; with noise of their own, most of their
/// variance is that of the noise.
#[derive(Clone, Debug, PartialEq)]
pub struct NoisePairs {
    /// The timesteps, `K` of them.
    pub timesteps: Vec<f64>,
    /// Whose noise a sample gets.
    pub sharing: NoiseSharing,
    /// The seed of the noise.
    pub seed: u64,
}

impl NoisePairs {
    /// `count` timesteps in the middles of equal parts of `total`, with shared noise.
    ///
    /// # Errors
    ///
    /// If there are none, or more than `total`.
    pub fn evenly(count: usize, total: usize, seed: u64) -> Result<Self, ModelError> {
        check(count >= 1, "timesteps", count as f64, "at least 1")?;
        check(count <= total, "timesteps", count as f64, "at most the timesteps of the schedule")?;
        let timesteps = (0..count).map(|k| ((2 * k + 1) * total / (2 * count)) as f64).collect();
        Ok(Self { timesteps, sharing: NoiseSharing::Shared, seed })
    }

    /// Standard normal noise of pair `k`, `size` values; `of` is the sample's own number, 0 if shared.
    pub fn noise(&self, k: usize, size: usize, of: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(mixed(mixed(mixed(self.seed) ^ k as u64) ^ of));
        normals(&mut rng, size)
    }
}

/// Standard normal numbers (Box & Muller 1958), the same on every machine up to its logarithm.
pub(crate) fn normals(rng: &mut StdRng, size: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(size + 1);
    while values.len() < size {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    values.truncate(size);
    values
}

/// SplitMix64's finaliser: neighbouring seeds give unrelated ones.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
