//! Random numbers that depend on their seeds alone, the same on every device.

use hyperinf_linalg::normal_pair;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The use of random numbers: under one seed each use has a separate stream.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// Entries of a projection, of a block and side.
    Projection = 0,
    /// Cotangents of an estimate, of a batch and pass.
    Estimate = 1,
}

/// The generator of a purpose, a seed and two numbers that pick a part of it.
pub(crate) fn generator(purpose: Purpose, seed: u64, first: usize, second: usize) -> StdRng {
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, first as u64, second as u64, purpose as u64]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    StdRng::from_seed(key)
}

/// A draw from N(0, 1).
pub(crate) fn normal(rng: &mut StdRng) -> f64 {
    let [draw, _] = normal_pair(|| rng.random());
    draw
}

/// 1 or −1.
pub(crate) fn sign(rng: &mut StdRng) -> f64 {
    if rng.random() { 1.0 } else { -1.0 }
}
