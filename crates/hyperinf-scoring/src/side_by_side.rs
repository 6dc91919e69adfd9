//! Several blocks at once, where one is too small for all cores.

use burn::tensor::Device;
use hyperinf_linalg::has_own_memory;
use rayon::prelude::*;

use crate::ScoreError;

/// Bytes of a block up to which a core does better with a block for itself than with its part of every block.
const SMALL: usize = 4 << 20;
/// Blocks whose results are held at once.
pub(crate) const AT_ONCE: usize = 64;

/// Whether a block of so many numbers is small: never on a device whose kernels take all of it.
pub(crate) fn is_small(device: &Device, numbers: usize) -> bool {
    numbers.saturating_mul(size_of::<f32>()) <= SMALL && !has_own_memory(device)
}

/// The results of all blocks in their order, or the first error; several at once if they are `small`. Each is computed as
/// it would be alone, so that no bit depends on this.
pub(crate) fn each<T: Send, R: Send>(
    blocks: impl IntoIterator<Item = T>,
    small: bool,
    work: impl Fn(T) -> Result<R, ScoreError> + Send + Sync,
) -> Result<Vec<R>, ScoreError> {
    if !small {
        return blocks.into_iter().map(work).collect();
    }
    let blocks: Vec<T> = blocks.into_iter().collect();
    let found: Vec<Result<R, ScoreError>> = blocks.into_par_iter().map(work).collect();
    found.into_iter().collect()
}
