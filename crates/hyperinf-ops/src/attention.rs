//! Fused attention: samples, and parts of their query rows, in parallel, one head after the other. Scores stay in the
//! cache, and heads are joined without a copy.

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::extension::contiguous;
use crate::kernels::{AttentionGradient, AttentionWeights, Hidden, one_part};
use crate::memory::zeros;

/// A view `[n, heads, rows, size]` whose rows are contiguous.
struct Heads<'a> {
    values: &'a [f32],
    sides: [usize; 4],
    strides: [usize; 4],
    start: usize,
}

impl<'a> Heads<'a> {
    fn of(x: &'a FlexTensor) -> Self {
        let layout = x.layout();
        Self {
            values: x.storage(),
            sides: std::array::from_fn(|side| layout.shape()[side]),
            strides: std::array::from_fn(|side| layout.strides()[side].unsigned_abs()),
            start: layout.start_offset(),
        }
    }

    fn head(&self, sample: usize, head: usize) -> MatRef<'a, f32> {
        let [_, _, rows, size] = self.sides;
        let start = self.start + sample * self.strides[0] + head * self.strides[1];
        MatRef::from_row_major_slice_with_stride(&self.values[start..], rows, size, self.strides[2].max(size))
    }
}

/// The tensor, copied only if [`Heads`] cannot view it.
fn readable(x: FlexTensor) -> FlexTensor {
    let layout = x.layout();
    let (strides, size) = (layout.strides(), layout.shape()[3]);
    let whole = strides[3] == 1 && strides.iter().all(|&stride| stride >= 0) && strides[2] >= size as isize;
    if whole { x } else { contiguous(x) }
}

/// The query rows of a sample, in parts that run on different cores. It depends on the shape alone, so that the sums
/// are the same on any number of cores.
#[derive(Clone, Copy, Debug)]
struct Parts {
    rows: usize,
    count: usize,
}

impl Parts {
    /// Enough for some cores even of one sample, and few enough rows for the cache.
    fn of(n: usize, t: usize) -> Self {
        const TASKS: usize = 16;
        const FEWEST_ROWS: usize = 16;
        const MOST_ROWS: usize = 256;
        let wanted = TASKS.div_ceil(n).min(t / FEWEST_ROWS).max(t.div_ceil(MOST_ROWS));
        let rows = t.div_ceil(wanted.max(1));
        Self { rows, count: t.div_ceil(rows) }
    }
}

/// The tensors that the backward pass needs.
#[derive(Clone, Debug)]
pub(super) struct AttentionState {
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    /// `[n, parts, heads, rows, u]`; without a backward pass empty.
    weights: Vec<f32>,
    scale: f32,
}

/// `softmax(scale · Q Kᵀ) V` for each head; see [`crate::attention`]. The weights are kept for a backward pass only.
pub(super) fn attend(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    hidden: FlexTensor,
    scale: f64,
    keep: bool,
) -> (FlexTensor, AttentionState) {
    let (query, key, value, hidden) = (readable(query), readable(key), readable(value), contiguous(hidden));
    let scale = scale as f32;
    let (q, k, v) = (Heads::of(&query), Heads::of(&key), Heads::of(&value));
    let ([n, heads, t, size], [_, shared, u, _]) = (q.sides, k.sides);
    let marks = std::array::from_fn(|side| hidden.layout().shape()[side]);
    let softmax = AttentionWeights { hidden: Hidden::new(hidden.bytes(), marks, [n, heads, t, u]), scale, length: u };

    let parts = Parts::of(n, t);
    let mut out = zeros(n * t * heads * size);
    // `step` from a head's weights to those of the next, 0 where they need not stay.
    let part = |index: usize, number: usize, out: &mut [f32], weights: &mut [f32], step: usize| {
        let (first, rows) = (number * parts.rows, out.len() / (heads * size));
        for head in 0..heads {
            let weights = &mut weights[head * step..][..rows * u];
            let place = head * shared / heads;
            let query = q.head(index, head).subrows(first, rows);
            let scores = MatMut::from_row_major_slice_mut(weights, rows, u);
            matmul(scores, Accum::Replace, query, k.head(index, place).transpose(), 1.0, Par::Seq);
            one_part(&softmax, (index * heads + head) * t + first, weights);
            let out = strided(&mut out[head * size..], rows, size, heads * size);
            let weights = MatRef::from_row_major_slice(weights, rows, u);
            matmul(out, Accum::Replace, weights, v.head(index, place), 1.0, Par::Seq);
        }
    };
    let outs = out.par_chunks_mut(t * heads * size).map(|out| out.par_chunks_mut(parts.rows * heads * size));
    let mut weights = zeros(if keep { n * heads * t * u } else { 0 });
    if keep {
        outs.zip(weights.par_chunks_mut(heads * t * u)).enumerate().for_each(|(index, (outs, weights))| {
            let weights = weights.par_chunks_mut(heads * parts.rows * u);
            outs.zip(weights).enumerate().for_each(|(number, (out, weights))| {
                let step = out.len() / (heads * size) * u;
                part(index, number, out, weights, step);
            });
        });
    } else {
        outs.enumerate().for_each(|(index, outs)| {
            let buffer = || vec![0.0; parts.rows * u];
            outs.enumerate().for_each_init(buffer, |weights, (number, out)| part(index, number, out, weights, 0));
        });
    }
    let out = by_position(out, [n, heads, t, size]);
    (out, AttentionState { query, key, value, weights, scale })
}

/// The gradients of query, key and value from the output gradient.
pub(super) fn gradients(saved: AttentionState, gradient: FlexTensor) -> [FlexTensor; 3] {
    let AttentionState { query, key, value, weights, scale } = saved;
    let gradient = readable(gradient);
    let (q, k, v, g) = (Heads::of(&query), Heads::of(&key), Heads::of(&value), Heads::of(&gradient));
    let ([n, heads, t, size], [_, shared, u, _]) = (q.sides, k.sides);
    let parts = Parts::of(n, t);
    let mut at_query = zeros(n * t * heads * size);
    let mut at_key = zeros(n * u * shared * size);
    let mut at_value = zeros(n * u * shared * size);

    let part = |index: usize, number: usize, at_query: &mut [f32], at_key: &mut [f32], at_value: &mut [f32]| {
        let (first, rows) = (number * parts.rows, at_query.len() / (heads * size));
        let mut at_scores = vec![0.0; rows * u];
        let all = &weights[(index * t + first) * heads * u..][..heads * rows * u];
        for (head, weights) in all.chunks_exact(rows * u).enumerate() {
            let place = head * shared / heads;
            let w = MatRef::from_row_major_slice(weights, rows, u);
            let g = g.head(index, head).subrows(first, rows);
            let at_weights = MatMut::from_row_major_slice_mut(&mut at_scores, rows, u);
            matmul(at_weights, Accum::Replace, g, v.head(index, place).transpose(), 1.0, Par::Seq);
            let target = strided(&mut at_value[place * size..], u, size, shared * size);
            matmul(target, Accum::Add, w.transpose(), g, 1.0, Par::Seq);
            one_part(&AttentionGradient { weights, scale, length: u }, 0, &mut at_scores);
            let d = MatRef::from_row_major_slice(&at_scores, rows, u);
            let target = strided(&mut at_query[head * size..], rows, size, heads * size);
            matmul(target, Accum::Replace, d, k.head(index, place), 1.0, Par::Seq);
            let target = strided(&mut at_key[place * size..], u, size, shared * size);
            matmul(target, Accum::Add, d.transpose(), q.head(index, head).subrows(first, rows), 1.0, Par::Seq);
        }
    };
    // Of a sample in parts: the sums of each part, and then their sum in order.
    let length = u * shared * size;
    let sample = |index: usize, at_query: &mut [f32], at_key: &mut [f32], at_value: &mut [f32]| {
        let mut others = vec![0.0; 2 * length * (parts.count - 1)];
        let rest = others.par_chunks_mut(2 * length).map(|both| both.split_at_mut(length));
        let (own, queries) = at_query.split_at_mut((parts.rows * heads * size).min(at_query.len()));
        let queries = queries.par_chunks_mut(parts.rows * heads * size);
        let of_others = || {
            queries.zip(rest).enumerate().for_each(|(number, (at_query, (at_key, at_value)))| {
                part(index, number + 1, at_query, at_key, at_value);
            });
        };
        rayon::join(|| part(index, 0, own, at_key, at_value), of_others);
        for both in others.chunks_exact(2 * length) {
            let (keys, values) = both.split_at(length);
            at_key.iter_mut().zip(keys).for_each(|(sum, x)| *sum += x);
            at_value.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
        }
    };
    at_query
        .par_chunks_mut(t * heads * size)
        .zip(at_key.par_chunks_mut(length))
        .zip(at_value.par_chunks_mut(length))
        .enumerate()
        .for_each(|(index, ((at_query, at_key), at_value))| sample(index, at_query, at_key, at_value));
    let shared_sides = [n, shared, u, size];
    [by_position(at_query, [n, heads, t, size]), by_position(at_key, shared_sides), by_position(at_value, shared_sides)]
}

/// A matrix whose rows start `stride` values apart. faer 0.24.4 mistakes the stride of its row-major constructor for
/// that of columns, hence the transpose.
fn strided(values: &mut [f32], rows: usize, columns: usize, stride: usize) -> MatMut<'_, f32> {
    MatMut::from_column_major_slice_with_stride_mut(values, columns, rows, stride).transpose_mut()
}

/// A tensor `[n, heads, t, size]` stored as `[n, t, heads, size]`, so that joining the heads copies nothing.
fn by_position(values: Vec<f32>, [n, heads, t, size]: [usize; 4]) -> FlexTensor {
    let strides = [t * heads * size, size, heads * size, 1].map(|stride| stride as isize).to_vec();
    FlexTensor::new(Bytes::from_elems(values), Layout::new([n, heads, t, size].into(), strides, 0), DType::F32)
}
