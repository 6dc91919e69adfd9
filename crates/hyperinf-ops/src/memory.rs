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

/// The numbers, so many times.
pub(super) fn repeated(values: &[f32], times: usize) -> Vec<f32> {
    let (lines, rest) = values.as_chunks::<LINE>();
    if values.len() * times < 2 * PART || !rest.is_empty() {
        return values.repeat(times);
    }
    let all = (0..lines.len() * times).into_par_iter().with_min_len(PART / LINE);
    all.map(|line| lines[line % lines.len()]).collect::<Vec<[f32; LINE]>>().into_flattened()
}

/// The same numbers in memory of their own.
pub(super) fn copied(values: &[f32]) -> Vec<f32> {
    if values.len() < 2 * PART {
        return values.to_vec();
    }
    // The last line may be shorter: the length stays what it was, and nothing is moved again.
    let line = |values: &[f32]| {
        values.try_into().unwrap_or_else(|_| {
            let mut line = [0.0; LINE];
            line[..values.len()].copy_from_slice(values);
            line
        })
    };
    let lines = values.par_chunks(LINE).with_min_len(PART / LINE).map(line);
    let mut copy = lines.collect::<Vec<[f32; LINE]>>().into_flattened();
    copy.truncate(values.len());
    copy
}
