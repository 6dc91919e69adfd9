//! Convolutions by kernels of 3 × 3 that move one step at a time, with 16 products where sums over windows take 36.
//!
//! Winograd's minimal filtering F(2 × 2, 3 × 3) (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
//! 2016, equations 8 to 11). A tile of 2 × 2 outputs sees 4 × 4 inputs `d`, and with a kernel `g` is
//!
//! ```text
//! Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A
//! Bᵀ = 1  0 -1  0    G = 1   0   0    Aᵀ = 1  1  1  0
//!      0  1  1  0        ½   ½   ½         0  1 -1 -1
//!      0 -1  1  0        ½  -½   ½
//!      0  1  0 -1        0   0   1
//! ```
//!
//! For many channels `⊙` is a product of matrices for each of the 16 places: `[outputs, channels] [channels, tiles]`.
//! Its factors are ones and halves, so that rounding is little worse than that of plain sums.

use std::cell::RefCell;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::memory::zeros;

/// The places of a tile of 4 × 4.
const PLACES: usize = 16;
/// The side of a kernel.
const SIDE: usize = 3;
/// Numbers between the rows of a factor, more than it has: rows that begin whole pages apart fall on the same places of
/// the cache.
const GAP: usize = 16;
/// Numbers of transformed tiles that are held at once, of inputs and outputs together: 32 MiB, or one row of tiles.
const HELD: usize = 1 << 23;
/// Numbers of a transformed weight up to which its memory is kept: 32 MiB.
const KEPT: usize = 1 << 23;
/// Outputs that are multiplied on one core, so that more cores than places have work.
const BLOCK: usize = 256;
/// The fewest channels and outputs for which fewer products are worth the transforms.
const FEWEST_CHANNELS: usize = 32;
/// The fewest tiles of a sample for which they are worth those of the weight.
const FEWEST_TILES: usize = 64;

thread_local! {
    /// The transformed weight of the last convolution: pages that are in use need not be cleared again.
    static WEIGHT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Its tiles.
    static TILES: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A convolution of one sample whose window moves one step at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plane {
    pub(super) channels: usize,
    /// Rows and columns of the input.
    pub(super) input: [usize; 2],
    pub(super) outputs: usize,
    /// Rows and columns of the output.
    pub(super) output: [usize; 2],
    /// Zeros above and to the left of the input.
    pub(super) before: [usize; 2],
}

impl Plane {
    /// Whether it is faster here. Whatever the number of samples, so that no bit of a sample depends on the others.
    pub(super) fn is_worth_it(&self) -> bool {
        let tiles = self.output[0].div_ceil(2) * self.output[1].div_ceil(2);
        self.channels.min(self.outputs) >= FEWEST_CHANNELS && tiles >= FEWEST_TILES
    }

    /// The tiles of a row.
    fn across(&self) -> usize {
        self.output[1].div_ceil(2)
    }

    /// The rows of tiles that are worked on at once.
    fn at_once(&self) -> usize {
        let row = PLACES * (self.channels + self.outputs) * self.across();
        (HELD / row.max(1)).clamp(1, self.output[0].div_ceil(2).max(1))
    }
}

/// `G g Gᵀ` of each kernel, `[rows][16][columns]`.
pub(super) struct Kernels {
    /// These, and what an earlier weight has left.
    values: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Kernels {
    /// Of a weight `[outputs, channels, 3, 3]`: a row for each output.
    pub(super) fn new(weight: &[f32], outputs: usize, channels: usize) -> Self {
        Self::of(outputs, channels, |row, column| kernel(weight, row * channels + column))
    }

    /// For the way back: a row for each channel, and kernels that are turned by half a circle.
    pub(super) fn backwards(weight: &[f32], outputs: usize, channels: usize) -> Self {
        Self::of(channels, outputs, |row, column| {
            let mut turned = kernel(weight, column * channels + row);
            turned.reverse();
            turned
        })
    }

    fn of(rows: usize, columns: usize, kernel: impl Fn(usize, usize) -> [f32; SIDE * SIDE] + Sync) -> Self {
        let stride = PLACES * columns + GAP;
        // What is not kept leaves what is.
        let mut values = if rows * stride <= KEPT { WEIGHT.take() } else { Vec::new() };
        if values.len() < rows * stride {
            values = zeros(rows * stride);
        }
        values[..rows * stride].par_chunks_mut(stride).enumerate().for_each(|(row, values)| {
            for column in 0..columns {
                for (place, value) in transformed_kernel(&kernel(row, column)).into_iter().enumerate() {
                    values[place * columns + column] = value;
                }
            }
        });
        Self { values, rows, columns }
    }

    /// The factor of a place, `[rows, columns]`.
    fn at(&self, place: usize) -> MatRef<'_, f32> {
        let stride = PLACES * self.columns + GAP;
        let values = &self.values[place * self.columns..];
        MatRef::from_row_major_slice_with_stride(values, self.rows, self.columns, stride)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.values.len() <= KEPT {
            WEIGHT.set(std::mem::take(&mut self.values));
        }
    }
}

fn kernel(weight: &[f32], which: usize) -> [f32; SIDE * SIDE] {
    let mut kernel = [0.0; SIDE * SIDE];
    kernel.copy_from_slice(&weight[which * SIDE * SIDE..][..SIDE * SIDE]);
    kernel
}

/// `G g Gᵀ`.
fn transformed_kernel(g: &[f32; SIDE * SIDE]) -> [f32; PLACES] {
    let column = |a: f32, b: f32, c: f32| [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c];
    let columns: [[f32; 4]; SIDE] = [0, 1, 2].map(|j| column(g[j], g[SIDE + j], g[2 * SIDE + j]));
    let mut found = [0.0; PLACES];
    for (i, row) in found.chunks_exact_mut(4).enumerate() {
        row.copy_from_slice(&column(columns[0][i], columns[1][i], columns[2][i]));
    }
    found
}

/// The convolution of a sample `[channels, rows, columns]` into `out` `[outputs, rows', columns']`.
pub(super) fn convolve(x: &[f32], kernels: &Kernels, bias: Option<&[f32]>, plane: &Plane, out: &mut [f32]) {
    let (across, step) = (plane.across(), plane.at_once());
    let [mut seen, mut found] = TILES.take();
    for first in (0..plane.output[0].div_ceil(2)).step_by(step) {
        let rows = step.min(plane.output[0].div_ceil(2) - first);
        let tiles = rows * across;
        let stride = PLACES * tiles + GAP;
        let (seen, found) =
            (held(&mut seen, plane.channels * stride), held(&mut found, PLACES * plane.outputs * tiles));
        let channels = x.par_chunks((plane.input[0] * plane.input[1]).max(1));
        seen.par_chunks_mut(stride).zip(channels).for_each(|(seen, x)| transform(x, plane, (first, rows), seen));
        found.par_chunks_mut((plane.outputs * tiles).max(1)).enumerate().for_each(|(place, found)| {
            let (kernels, seen) = (kernels.at(place), &seen[place * tiles..]);
            let right = MatRef::from_row_major_slice_with_stride(seen, plane.channels, tiles, stride);
            found.par_chunks_mut((BLOCK * tiles).max(1)).enumerate().for_each(|(block, found)| {
                let outputs = found.len() / tiles;
                let found = MatMut::from_row_major_slice_mut(found, outputs, tiles);
                let left = kernels.subrows(block * BLOCK, outputs);
                matmul(found, Accum::Replace, left, right, 1.0, Par::Seq);
            });
        });
        let found = &*found;
        out.par_chunks_mut((plane.output[0] * plane.output[1]).max(1)).enumerate().for_each(|(output, out)| {
            let of_place = |place: usize| &found[(place * plane.outputs + output) * tiles..][..tiles];
            write(std::array::from_fn(of_place), bias.map_or(0.0, |bias| bias[output]), plane, first, out);
        });
    }
    TILES.set([seen, found]);
}

/// So many numbers of a vector that grows where it must; their values are those of the last use.
fn held(values: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if values.len() < count {
        values.resize(count, 0.0);
    }
    &mut values[..count]
}

/// `Bᵀ d B` of a channel's tiles in `rows` rows of them from `first` on: `[16][tiles]`.
fn transform(x: &[f32], plane: &Plane, (first, rows): (usize, usize), out: &mut [f32]) {
    let (across, [height, width]) = (plane.across(), plane.input);
    let tiles = rows * across;
    // A row of the input with the zeros around it, its even and its odd columns, and what they give at each tile.
    let mut padded = vec![0.0; 2 * across + 2];
    let (mut even, mut odd) = (vec![0.0; across + 1], vec![0.0; across + 1]);
    let mut lines = vec![0.0; (2 * rows + 2) * 4 * across];
    let end = padded.len().min(plane.before[1] + width);
    for (line, out) in lines.chunks_exact_mut((4 * across).max(1)).enumerate() {
        let Some(row) = (2 * first + line).checked_sub(plane.before[0]).filter(|row| *row < height) else {
            continue;
        };
        let seen = &mut padded[plane.before[1]..end];
        seen.copy_from_slice(&x[row * width..][..seen.len()]);
        for ((even, odd), pair) in even.iter_mut().zip(&mut odd).zip(padded.as_chunks::<2>().0) {
            [*even, *odd] = *pair;
        }
        let (at, next) = ((&even[..across], &odd[..across]), (&even[1..], &odd[1..]));
        let (a, rest) = out.split_at_mut(across);
        let (b, rest) = rest.split_at_mut(across);
        let (c, d) = rest.split_at_mut(across);
        difference(at.0, next.0, a);
        sum(at.1, next.0, b);
        difference(next.0, at.1, c);
        difference(at.1, next.1, d);
    }
    for row in 0..rows {
        let line = |which: usize| &lines[(2 * row + which) * 4 * across..][..4 * across];
        let (a, b, c, d) = (line(0), line(1), line(2), line(3));
        for column in 0..4 {
            let run = column * across..(column + 1) * across;
            let (a, b, c, d) = (&a[run.clone()], &b[run.clone()], &c[run.clone()], &d[run]);
            let place = |i: usize| (4 * i + column) * tiles + row * across;
            difference(a, c, &mut out[place(0)..][..across]);
            sum(b, c, &mut out[place(1)..][..across]);
            difference(c, b, &mut out[place(2)..][..across]);
            difference(b, d, &mut out[place(3)..][..across]);
        }
    }
}

fn sum(a: &[f32], b: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a + b);
}

fn difference(a: &[f32], b: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a - b);
}

/// `bias + Aᵀ m A` of an output's tiles, which begin with row `first` of them.
fn write(m: [&[f32]; PLACES], bias: f32, plane: &Plane, first: usize, out: &mut [f32]) {
    let (across, [_, width]) = (plane.across(), plane.output);
    let mut sums = vec![0.0; 4 * across];
    let lines = out.chunks_exact_mut(width.max(1)).skip(2 * first).take(2 * (m[0].len() / across.max(1)));
    for (line, out) in lines.enumerate() {
        let start = line / 2 * across;
        for (column, sums) in sums.chunks_exact_mut(across).enumerate() {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| &m[4 * i + column][start..][..across]);
            match line % 2 {
                0 => sums.iter_mut().zip(a).zip(b).zip(c).for_each(|(((sum, a), b), c)| *sum = a + b + c),
                _ => sums.iter_mut().zip(b).zip(c).zip(d).for_each(|(((sum, b), c), d)| *sum = b - c - d),
            }
        }
        let (a, rest) = sums.split_at(across);
        let (b, rest) = rest.split_at(across);
        let (c, d) = rest.split_at(across);
        let (pairs, last) = out.as_chunks_mut::<2>();
        for ((((pair, a), b), c), d) in pairs.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            pair[0] = bias + (a + b + c);
            pair[1] = bias + (b - c - d);
        }
        // Half of the last tile lies beyond an odd width.
        for out in last {
            *out = bias + (a[across - 1] + b[across - 1] + c[across - 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, whose sums are exact, at odd sizes, in parts, and beyond the input.
    #[test]
    fn tiles_are_the_sums_over_windows() {
        for (channels, outputs, input, before, after) in [
            (1, 1, [1, 1], [1, 1], [1, 1]),
            (2, 3, [1, 6], [1, 0], [2, 2]),
            (3, 2, [7, 4], [0, 2], [0, 5]),
            (2, 1, [3, 3], [0, 0], [0, 0]),
            (600, 2, [36, 700], [1, 1], [1, 1]),
        ] {
            let output = [0, 1].map(|axis: usize| input[axis] + before[axis] + after[axis] - 2);
            let plane = Plane { channels, input, outputs, output, before };
            let numbers = |count: usize, of: usize| (0..count).map(|i| (i * 7 % of) as f32 - 2.0).collect::<Vec<_>>();
            let (x, weight) = (numbers(channels * input[0] * input[1], 5), numbers(outputs * channels * 9, 3));
            // What an earlier convolution has left must not be seen.
            TILES.set([vec![f32::NAN; 1 << 12], vec![f32::NAN; 1 << 12]]);
            WEIGHT.set(vec![f32::NAN; 1 << 12]);
            let (bias, mut out) = (numbers(outputs, 4), vec![f32::NAN; outputs * output[0] * output[1]]);
            convolve(&x, &Kernels::new(&weight, outputs, channels), Some(&bias), &plane, &mut out);
            let at = |channel: usize, row: usize, column: usize| {
                let (row, column) = (row.checked_sub(before[0])?, column.checked_sub(before[1])?);
                let inside = row < input[0] && column < input[1];
                inside.then(|| x[(channel * input[0] + row) * input[1] + column])
            };
            for (place, found) in out.iter().enumerate().step_by(if channels > 9 { 97 } else { 1 }) {
                let (o, row, column) =
                    (place / (output[0] * output[1]), place / output[1] % output[0], place % output[1]);
                let sums = (0..channels * 9).map(|i| {
                    let (channel, down, right) = (i / 9, i / 3 % 3, i % 3);
                    at(channel, row + down, column + right).unwrap_or(0.0)
                        * weight[(o * channels + channel) * 9 + i % 9]
                });
                assert_eq!(*found, bias[o] + sums.sum::<f32>(), "{plane:?} at {o}, {row}, {column}");
            }
        }
    }
}
