//! Convolutions of two dimensions as matrix products by faer.
//!
//! Windows of the input are copied into columns, some rows of the output at a time, so that the copy stays small whatever
//! the size of the picture: `[channels · k · k, positions]`. One product with the weight `[outputs, channels · k · k]`
//! gives these positions of every output channel; the derivative goes the same way back. Kernels of 3 × 3 that move one
//! step at a time, and wide enough, take fewer products ([`winograd`]).

use std::cell::RefCell;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use faer::{Accum, MatMut, MatRef};
use rayon::prelude::*;

use crate::extension::{contiguous, tensor};
use crate::memory::zeros;
use crate::product::multiply;
use crate::winograd::{self, Kernels, Plane};

/// Numbers of the columns that are held at once: 32 MiB.
const COLUMNS: usize = 1 << 23;
/// Positions from which on a transposed copy of the weight is worth its time: faer takes up to a third longer with a
/// transposed left factor. The sums are the same, bit for bit.
const COPIED: usize = 64;
/// Rows of the copy that are written at once: a cache line of the weight's rows.
const LINE: usize = 16;

thread_local! {
    /// The columns of the last convolution: pages that are in use need not be cleared again.
    static HELD: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends so many numbers, whose values are those of the last use.
fn with_columns<T>(count: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    // Taken out meanwhile: a thread that waits for others may begin another convolution.
    let mut held = HELD.take();
    if held.len() < count {
        held.resize(count, 0.0);
    }
    let found = work(&mut held[..count]);
    HELD.set(held);
    found
}

/// How a window moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Steps down and to the right.
    pub(super) stride: [usize; 2],
    /// Zeros at the top, left, bottom and right.
    pub(super) padding: [usize; 4],
}

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    samples: usize,
    channels: usize,
    /// Rows and columns of the input.
    input: [usize; 2],
    outputs: usize,
    /// Rows and columns of the kernel.
    kernel: [usize; 2],
    /// Rows and columns of the output.
    output: [usize; 2],
    window: Window,
}

impl Sizes {
    fn new(x: &FlexTensor, weight: &FlexTensor, window: Window) -> Self {
        let (x, weight) = (x.shape(), weight.shape());
        let (input, kernel) = ([x[2], x[3]], [weight[2], weight[3]]);
        let [top, left, bottom, right] = window.padding;
        let side = |size: usize, padding: usize, kernel: usize, stride: usize| {
            assert!(size + padding >= kernel, "convolution: a kernel of {kernel} on {size} with {padding} around it");
            (size + padding - kernel) / stride + 1
        };
        let output = [
            side(input[0], top + bottom, kernel[0], window.stride[0]),
            side(input[1], left + right, kernel[1], window.stride[1]),
        ];
        Self { samples: x[0], channels: x[1], input, outputs: weight[0], kernel, output, window }
    }

    /// Rows of the columns.
    fn depth(&self) -> usize {
        self.channels * self.kernel[0] * self.kernel[1]
    }

    fn pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Whether a window is one pixel and there is one for each: the columns are then the input as it is.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.window == Window { stride: [1, 1], padding: [0; 4] }
    }

    /// The convolution of a sample, where fewer products do.
    fn tiled(&self) -> Option<Plane> {
        let (channels, outputs, [top, left, ..]) = (self.channels, self.outputs, self.window.padding);
        let plane = Plane { channels, input: self.input, outputs, output: self.output, before: [top, left] };
        self.is_tiled().then_some(plane).filter(Plane::is_worth_it)
    }

    /// The convolution that takes the output's gradient back to the input, where fewer products do.
    fn tiled_back(&self) -> Option<Plane> {
        let [top, left, ..] = self.window.padding;
        let before = [2_usize.checked_sub(top)?, 2_usize.checked_sub(left)?];
        let (channels, outputs) = (self.outputs, self.channels);
        let plane = Plane { channels, input: self.output, outputs, output: self.input, before };
        self.is_tiled().then_some(plane).filter(Plane::is_worth_it)
    }

    fn is_tiled(&self) -> bool {
        self.kernel == [3, 3] && self.window.stride == [1, 1]
    }

    /// Rows of the output that are computed at once.
    fn at_once(&self) -> usize {
        (COLUMNS / (self.depth() * self.output[1]).max(1)).clamp(1, self.output[0].max(1))
    }

    /// The first row of each part of the output, and how many it has.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (all, step) = (self.output[0], self.at_once());
        (0..all).step_by(step).map(move |first| (first, step.min(all - first)))
    }

    /// For place `k` of the kernel's columns: the places of an output row whose window is within the input there.
    fn inside(&self, k: usize) -> std::ops::Range<usize> {
        let (stride, left) = (self.window.stride[1], self.window.padding[1]);
        let first = left.saturating_sub(k).div_ceil(stride);
        let end = (self.input[1] + left).saturating_sub(k).div_ceil(stride).min(self.output[1]);
        first..end.max(first)
    }

    /// The row of the input that row `row` of the output sees at place `k` of the kernel's rows.
    fn seen(&self, row: usize, k: usize) -> Option<usize> {
        (row * self.window.stride[0] + k).checked_sub(self.window.padding[0]).filter(|row| *row < self.input[0])
    }
}

/// The windows of a sample `[channels, rows, columns]` at `count` rows of the output from `first` on.
fn windows(x: &[f32], sizes: &Sizes, (first, count): (usize, usize), out: &mut [f32]) {
    let ([_, width], [kernel, places], stride) = (sizes.output, sizes.kernel, sizes.window.stride[1]);
    let of_channel = kernel * places * count * width;
    out.par_chunks_mut(of_channel).zip(x.par_chunks(sizes.pixels())).for_each(|(out, x)| {
        for (place, out) in out.chunks_mut(count * width).enumerate() {
            let (down, right) = (place / places, place % places);
            let inside = sizes.inside(right);
            for (row, out) in out.chunks_mut(width).enumerate() {
                let Some(seen) = sizes.seen(first + row, down).filter(|_| !inside.is_empty()) else {
                    out.fill(0.0);
                    continue;
                };
                out[..inside.start].fill(0.0);
                out[inside.end..].fill(0.0);
                let from = seen * sizes.input[1] + inside.start * stride + right - sizes.window.padding[1];
                let out = &mut out[inside.clone()];
                match stride {
                    1 => out.copy_from_slice(&x[from..from + inside.len()]),
                    _ => out.iter_mut().enumerate().for_each(|(i, out)| *out = x[from + i * stride]),
                }
            }
        }
    });
}

/// Adds what windows give back to a sample: the transpose of [`windows`], each channel in one order.
fn give_back(columns: &[f32], sizes: &Sizes, (first, count): (usize, usize), x: &mut [f32]) {
    let ([_, width], [kernel, places], stride) = (sizes.output, sizes.kernel, sizes.window.stride[1]);
    let of_channel = kernel * places * count * width;
    columns.par_chunks(of_channel).zip(x.par_chunks_mut(sizes.pixels())).for_each(|(columns, x)| {
        for (place, columns) in columns.chunks(count * width).enumerate() {
            let (down, right) = (place / places, place % places);
            let inside = sizes.inside(right);
            for (row, columns) in columns.chunks(width).enumerate() {
                let Some(seen) = sizes.seen(first + row, down).filter(|_| !inside.is_empty()) else { continue };
                let from = seen * sizes.input[1] + inside.start * stride + right - sizes.window.padding[1];
                let columns = &columns[inside.clone()];
                match stride {
                    1 => x[from..from + inside.len()].iter_mut().zip(columns).for_each(|(x, more)| *x += more),
                    _ => columns.iter().enumerate().for_each(|(i, more)| x[from + i * stride] += more),
                }
            }
        }
    });
}

/// `[n, c, h, w]`, `[o, c, k, k]` and `[o]` to `[n, o, h', w']`, with the sizes for [`gradient`].
pub(super) fn convolve(x: FlexTensor, weight: &FlexTensor, bias: FlexTensor, window: Window) -> (FlexTensor, Sizes) {
    let sizes = Sizes::new(&x, weight, window);
    let x = contiguous(x);
    let (depth, positions) = (sizes.depth(), sizes.positions());
    let mut out = zeros(sizes.samples * sizes.outputs * positions);
    let bias = contiguous(bias);
    let bias = bias.storage::<f32>();
    assert_eq!(bias.len(), sizes.outputs, "convolution: length of the bias");
    let shape = [sizes.samples, sizes.outputs, sizes.output[0], sizes.output[1]];
    let samples = x.storage::<f32>().chunks((sizes.channels * sizes.pixels()).max(1));
    if let Some(plane) = sizes.tiled() {
        let kernels = Kernels::new(weight.storage::<f32>(), sizes.outputs, sizes.channels);
        let outputs = out.chunks_mut((sizes.outputs * positions).max(1));
        samples.zip(outputs).for_each(|(x, out)| winograd::convolve(x, &kernels, Some(bias), &plane, out));
        return (tensor(out, shape), sizes);
    }
    out.par_chunks_mut(positions.max(1)).enumerate().for_each(|(row, out)| out.fill(bias[row % sizes.outputs]));
    let left = MatRef::from_row_major_slice(weight.storage::<f32>(), sizes.outputs, depth);
    with_columns(depth * sizes.at_once() * sizes.output[1], |columns| {
        for (x, out) in samples.zip(out.chunks_mut((sizes.outputs * positions).max(1))) {
            let mut out = MatMut::from_row_major_slice_mut(out, sizes.outputs, positions);
            if sizes.is_pointwise() {
                multiply(out, Accum::Add, left, MatRef::from_row_major_slice(x, depth, positions));
                continue;
            }
            for (first, count) in sizes.parts() {
                let width = count * sizes.output[1];
                let columns = &mut columns[..depth * width];
                windows(x, &sizes, (first, count), columns);
                let right = MatRef::from_row_major_slice(columns, depth, width);
                let part = out.as_mut().subcols_mut(first * sizes.output[1], width);
                multiply(part, Accum::Add, left, right);
            }
        }
    });
    (tensor(out, shape), sizes)
}

/// `[rows, cols]` as `[cols, rows]`.
fn transposed(matrix: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = zeros(matrix.len());
    out.par_chunks_mut((LINE * rows).max(1)).enumerate().for_each(|(part, out)| {
        let first = part * LINE;
        for (row, values) in matrix.chunks(cols.max(1)).enumerate() {
            let values = &values[first..cols.min(first + LINE)];
            values.iter().enumerate().for_each(|(place, value)| out[place * rows + row] = *value);
        }
    });
    out
}

/// The gradient of the input from that of the output.
pub(super) fn gradient(of_output: FlexTensor, weight: &FlexTensor, sizes: Sizes) -> FlexTensor {
    let of_output = contiguous(of_output);
    let (depth, positions) = (sizes.depth(), sizes.positions());
    let mut out = zeros(sizes.samples * sizes.channels * sizes.pixels());
    let shape = [sizes.samples, sizes.channels, sizes.input[0], sizes.input[1]];
    let samples = of_output.storage::<f32>().chunks((sizes.outputs * positions).max(1));
    if let Some(plane) = sizes.tiled_back() {
        let kernels = Kernels::backwards(weight.storage::<f32>(), sizes.outputs, sizes.channels);
        let inputs = out.chunks_mut((sizes.channels * sizes.pixels()).max(1));
        samples.zip(inputs).for_each(|(given, out)| winograd::convolve(given, &kernels, None, &plane, out));
        return tensor(out, shape);
    }
    let (weight, copy) = (weight.storage::<f32>(), positions >= COPIED);
    let copied = if copy { transposed(weight, sizes.outputs, depth) } else { Vec::new() };
    let left = match copy {
        true => MatRef::from_row_major_slice(&copied, depth, sizes.outputs),
        false => MatRef::from_row_major_slice(weight, sizes.outputs, depth).transpose(),
    };
    with_columns(depth * sizes.at_once() * sizes.output[1], |columns| {
        for (given, out) in samples.zip(out.chunks_mut((sizes.channels * sizes.pixels()).max(1))) {
            let given = MatRef::from_row_major_slice(given, sizes.outputs, positions);
            if sizes.is_pointwise() {
                let out = MatMut::from_row_major_slice_mut(out, depth, positions);
                multiply(out, Accum::Replace, left, given);
                continue;
            }
            for (first, count) in sizes.parts() {
                let width = count * sizes.output[1];
                let columns = &mut columns[..depth * width];
                let right = given.subcols(first * sizes.output[1], width);
                let part = MatMut::from_row_major_slice_mut(columns, depth, width);
                multiply(part, Accum::Replace, left, right);
                give_back(columns, &sizes, (first, count), out);
            }
        }
    });
    tensor(out, shape)
}
