//! Normal random numbers that depend on their seeds alone, the same on every device.

use std::f64::consts::TAU;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Two independent numbers from N(0, 1) from two uniform ones in [0, 1) by the Box–Muller transform.
#[inline]
pub fn normal_pair(mut uniform: impl FnMut() -> f64) -> [f64; 2] {
    // `1 − u` is in (0, 1], so its logarithm is finite.
    let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
    let angle = TAU * uniform();
    [radius * angle.cos(), radius * angle.sin()]
}

/// `count` numbers from N(0, 1) from uniform ones in [0, 1): see [`normal_pair`].
pub fn normals(count: usize, mut uniform: impl FnMut() -> f64) -> Vec<f64> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        values.extend(normal_pair(&mut uniform));
    }
    values.truncate(count);
    values
}

/// `count` numbers from N(0, 1) of a seed; more of them begin with the same ones.
pub fn seeded_normals(count: usize, seed: u64) -> Vec<f64> {
    let mut rng = StdRng::seed_from_u64(seed);
    // 52-bit uniform numbers, so that scores stay those of earlier versions bit for bit.
    normals(count, || rng.random_range(0.0..1.0))
}
