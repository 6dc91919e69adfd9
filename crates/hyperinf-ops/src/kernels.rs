//! The functions on slices of equally long rows, written so that the compiler vectorises them.
//!
//! Every function called inside [`over_rows`] is `inline(always)`: only then is it compiled for the vector unit that
//! is detected at run time.

mod geglu;
mod gelu;
mod group;
mod math;
mod norm;
mod softmax;
mod sum;
mod swiglu;

pub(super) use geglu::{Geglu, GegluGradient};
pub(super) use gelu::{Gelu, GeluGradient, GeluTanh, GeluTanhGradient, Swish, SwishGradient};
pub(super) use group::{GroupNorm, GroupNormGradient, Groups};
pub(super) use norm::{LayerNorm, LayerNormGradient, RmsNorm, RmsNormGradient};
pub(super) use softmax::{AttentionGradient, AttentionWeights, CrossEntropy, CrossEntropyGradient, Hidden};
pub(super) use sum::Add;
pub(super) use swiglu::{GateGradient, SwiGlu, UpGradient};

use pulp::{Arch, WithSimd};
use rayon::prelude::*;

/// A computation that fills each row of an output independently.
pub(super) trait Rows: Sync {
    /// Fills `out`: whole rows, starting at row `first`. Implementations are `inline(always)`.
    fn fill(&self, first: usize, out: &mut [f32]);
}

/// Below this many elements one thread does the work: a hand-over costs about as much as 10,000 elements.
const PARALLEL: usize = 1 << 15;

/// Elements per task, small enough for the cache of a core.
const PART: usize = 1 << 14;

/// Fills an output whose rows have `length` elements, in parallel if it is large.
pub(super) fn over_rows(kernel: &impl Rows, length: usize, out: &mut [f32]) {
    let arch = Arch::new();
    if out.len() < PARALLEL {
        arch.dispatch(Fill { kernel, first: 0, out });
        return;
    }
    let rows = (PART / length).max(1);
    out.par_chunks_mut(rows * length)
        .enumerate()
        .for_each(|(part, out)| arch.dispatch(Fill { kernel, first: part * rows, out }));
}

/// Fills an output on this thread, starting at row `first`.
pub(super) fn one_part(kernel: &impl Rows, first: usize, out: &mut [f32]) {
    Arch::new().dispatch(Fill { kernel, first, out });
}

struct Fill<'a, K> {
    kernel: &'a K,
    first: usize,
    out: &'a mut [f32],
}

impl<K: Rows> WithSimd for Fill<'_, K> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.kernel.fill(self.first, self.out);
    }
}

/// The `length` values that belong to an output which starts at row `first`, with `row` elements per row.
#[inline(always)]
fn part(values: &[f32], first: usize, row: usize, length: usize) -> &[f32] {
    &values[first * row..first * row + length]
}
