//! The functions on slices: rows of equal length, written so that the compiler vectorises them.
//!
//! Every function that runs inside [`over_rows`] is `inline(always)`: only then is it compiled for the vector unit
//! that is found at run time.

mod gelu;
mod math;
mod norm;
mod softmax;
mod swiglu;

pub(super) use gelu::{Gelu, GeluGradient};
pub(super) use norm::{LayerNorm, LayerNormGradient, RmsNorm, RmsNormGradient};
pub(super) use softmax::{AttentionGradient, AttentionWeights, CrossEntropy, CrossEntropyGradient, Hidden};
pub(super) use swiglu::{GateGradient, SwiGlu, UpGradient};

use pulp::{Arch, WithSimd};
use rayon::prelude::*;

/// A computation that fills rows of an output, each on its own.
pub(super) trait Rows: Sync {
    /// Fills `out`, whole rows of which the first is row `first`. Implementations are `inline(always)`.
    fn fill(&self, first: usize, out: &mut [f32]);
}

/// Fewer elements than this are done on one thread: a hand-over costs about as much as 10,000 elements.
const PARALLEL: usize = 1 << 15;

/// Elements of a part: small enough for the cache of a core.
const PART: usize = 1 << 14;

/// Fills an output of rows of `length` elements.
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

/// Fills an output on this thread; its first row is row `first`.
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

/// `values`, as far as it belongs to the `length` elements of an output that starts in row `first` of `row` elements.
#[inline(always)]
fn part(values: &[f32], first: usize, row: usize, length: usize) -> &[f32] {
    &values[first * row..first * row + length]
}
