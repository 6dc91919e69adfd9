use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A random choice of `round(share · n)` out of `n` labels to be made wrong, `true` for those. Equal arguments give
/// equal choices.
///
/// # Panics
///
/// If the share is not in [0, 1].
pub fn flipped_labels(n: usize, share: f64, seed: u64) -> Vec<bool> {
    assert!((0.0..=1.0).contains(&share), "a share of {share} is not in [0, 1]");
    let mut flipped = vec![false; n];
    flipped[..(share * n as f64).round() as usize].fill(true);
    flipped.shuffle(&mut StdRng::seed_from_u64(seed));
    flipped
}
