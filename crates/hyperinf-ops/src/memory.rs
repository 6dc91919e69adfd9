//! New memory, written on all cores: the first write to a page is what takes time, and one core would take it alone.

use rayon::prelude::*;

/// Numbers that are written at once.
const LINE: usize = 16;
/// The fewest numbers for a core.
const PART: usize = 1 << 14;

/// So many zeros.
pub(super) fn zeros(count: usize) -> Vec<f32> {
    if count < 2 * PART {
        return vec![0.0; count];
    }
    let lines = rayon::iter::repeat_n([0.0; LINE], count.div_ceil(LINE)).with_min_len(PART / LINE);
    let mut zeros = lines.collect::<Vec<[f32; LINE]>>().into_flattened();
    zeros.truncate(count);
    zeros
}

/// The same numbers in memory of their own.
pub(super) fn copied(values: &[f32]) -> Vec<f32> {
    if values.len() < 2 * PART {
        return values.to_vec();
    }
    let (lines, rest) = values.as_chunks::<LINE>();
    let mut copy = lines.par_iter().copied().with_min_len(PART / LINE).collect::<Vec<[f32; LINE]>>().into_flattened();
    copy.extend_from_slice(rest);
    copy
}
