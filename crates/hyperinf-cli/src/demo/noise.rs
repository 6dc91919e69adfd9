use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::error::CliError;

/// Fails unless most labels stay right.
pub(super) fn check(noise: f64) -> Result<(), CliError> {
    if (0.0..0.5).contains(&noise) { Ok(()) } else { Err(CliError::Noise { value: noise }) }
}

/// Which of `n` samples get the wrong label: `noise · n` of them, rounded, drawn by the seed.
pub(super) fn flipped(n: usize, noise: f64, seed: u64) -> Vec<bool> {
    let mut flipped = vec![false; n];
    let count = (noise * n as f64).round() as usize;
    flipped[..count].fill(true);
    flipped.shuffle(&mut StdRng::seed_from_u64(seed));
    flipped
}
