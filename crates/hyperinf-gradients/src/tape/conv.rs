use burn::module::{Module, Param};
use burn::nn::conv::{Conv1d, Conv2d};
use burn::nn::{PaddingConfig1d, PaddingConfig2d};
use burn::tensor::ops::PadMode;
use burn::tensor::{Tensor, s};

use super::{Read, Tape, units, with_ones};
use crate::Block;

impl Tape {
    /// Applies a convolution over one dimension, with any stride, padding, dilation and groups.
    ///
    /// The block is [`conv2d`](Self::conv2d)'s with a kernel of one row.
    ///
    /// # Shapes
    ///
    /// `input`: `[n, channels_in, length]`; output: `[n, channels_out, length_out]`.
    ///
    /// # Panics
    ///
    /// If the channels are not the layer's, or the kernel is longer than the padded input.
    pub fn conv1d(&mut self, name: &str, layer: &Conv1d, input: Tensor<3>) -> Tensor<3> {
        if !self.recording {
            return layer.forward(input);
        }
        let ([_, _, length], [_, inputs, kernel]) = (input.dims(), layer.weight.dims());
        let padding = match layer.padding {
            PaddingConfig1d::Valid => (0, 0),
            PaddingConfig1d::Same => same(length, kernel, layer.stride),
            PaddingConfig1d::Explicit(left, right) => (left, right),
        };
        let mut layer = layer.clone().valid();
        let parts = parts(layer.weight.val().flatten(0, 2), &layer.bias);
        if let Some(by) = self.movement(name, &parts) {
            let shape = layer.weight.dims();
            (layer.weight, layer.bias) = moved(layer.weight, layer.bias, by, shape);
        }
        let output: Tensor<4> = layer.forward(input.clone()).unsqueeze_dim(2);
        let form = Form {
            kernel: [1, kernel],
            stride: [1, layer.stride],
            dilation: [1, layer.dilation],
            padding: [(0, 0), padding],
            groups: layer.groups,
            inputs,
            bias: layer.bias.is_some(),
        };
        self.convolution(name, form, input.unsqueeze_dim(2), output).squeeze_dim(2)
    }

    /// Applies a convolution over two dimensions, with any stride, padding, dilation and groups.
    ///
    /// The block is `[channels_in / groups · height · width, channels_out]` in the order of Burn's weight with its
    /// first dimension last; a bias is the last row. Positions are those of the output, and `a` is the input
    /// patch of each: as many times the input as the kernel has entries, over the strides.
    ///
    /// With groups an output channel depends on the inputs of its group only, which one `a` per position cannot
    /// express. Each position then occurs once per group, with the `δ` of that group's outputs; or, where there are
    /// more groups than rows (depthwise), once per row, with that entry of the patch times `δ` as `δ` and a unit vector
    /// as `a`.
    ///
    /// # Shapes
    ///
    /// `input`: `[n, channels_in, height, width]`; output: `[n, channels_out, height_out, width_out]`.
    ///
    /// # Panics
    ///
    /// If the channels are not the layer's, or the kernel is larger than the padded input.
    pub fn conv2d(&mut self, name: &str, layer: &Conv2d, input: Tensor<4>) -> Tensor<4> {
        if !self.recording {
            return layer.forward(input);
        }
        let ([_, _, height, width], [_, inputs, ..]) = (input.dims(), layer.weight.dims());
        let padding = match layer.padding {
            PaddingConfig2d::Valid => [(0, 0); 2],
            PaddingConfig2d::Same => {
                let ([k0, k1], [s0, s1]) = (layer.kernel_size, layer.stride);
                [same(height, k0, s0), same(width, k1, s1)]
            }
            PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
        };
        let mut layer = layer.clone().valid();
        let parts = parts(layer.weight.val().flatten(0, 3), &layer.bias);
        if let Some(by) = self.movement(name, &parts) {
            let shape = layer.weight.dims();
            (layer.weight, layer.bias) = moved(layer.weight, layer.bias, by, shape);
        }
        let output = layer.forward(input.clone());
        let form = Form {
            kernel: layer.kernel_size,
            stride: layer.stride,
            dilation: layer.dilation,
            padding,
            groups: layer.groups,
            inputs,
            bias: layer.bias.is_some(),
        };
        self.convolution(name, form, input, output)
    }

    fn convolution(&mut self, name: &str, form: Form, input: Tensor<4>, output: Tensor<4>) -> Tensor<4> {
        let [n, cols, height, width] = output.dims();
        let block = Block::new(name, form.rows(), cols);
        let input = input.without_autodiff();
        let positions = output.reshape([n, cols, height * width]).swap_dims(1, 2);
        let output = self.note(block, positions, move |delta| form.read(input, delta, [height, width]));
        output.swap_dims(1, 2).reshape([n, cols, height, width])
    }
}

/// The numbers of a convolution.
struct Form {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Before and after, in each dimension.
    padding: [(usize, usize); 2],
    groups: usize,
    /// Input channels of a group.
    inputs: usize,
    bias: bool,
}

impl Form {
    fn rows(&self) -> usize {
        self.inputs * self.kernel[0] * self.kernel[1] + usize::from(self.bias)
    }

    /// `a` and `δ` from the input and the output gradient `[n, t, cols]`, for `t` outputs of that height and width.
    fn read(self, input: Tensor<4>, delta: Tensor<3>, outputs: [usize; 2]) -> Read {
        let ([n, t, cols], groups, rows) = (delta.dims(), self.groups, self.rows());
        let entries = self.inputs * self.kernel[0] * self.kernel[1];
        // One group after the other, each with all positions.
        let seen = self.patches(input, outputs).reshape([n, groups, entries, t]);
        if groups <= rows {
            let seen = seen.swap_dims(2, 3).reshape([n, groups * t, entries]);
            let own = Tensor::<2>::eye(groups, &delta.device()).cast(delta.dtype());
            let own = own.reshape([1, groups, 1, groups, 1]);
            let delta = delta.reshape([n, 1, t, groups, cols / groups]) * own;
            return (if self.bias { with_ones(seen) } else { seen }, delta.reshape([n, groups * t, cols]));
        }
        let seen = seen.permute([0, 2, 3, 1]).reshape([n, entries, t, groups, 1]);
        let scaled = seen * delta.clone().reshape([n, 1, t, groups, cols / groups]);
        let mut scaled = scaled.reshape([n, entries * t, cols]);
        if self.bias {
            scaled = Tensor::cat(vec![scaled, delta], 1);
        }
        (units([n, rows, t], &scaled), scaled)
    }

    /// The input patch of each output, `[n, channels_in, kernel entries, t]`.
    fn patches(&self, input: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
        let [n, channels, _, _] = input.dims();
        let padded = if self.padding == [(0, 0); 2] { input } else { input.pad(self.padding, PadMode::Constant(0.0)) };
        let ([k0, k1], [s0, s1], [d0, d1]) = (self.kernel, self.stride, self.dilation);
        let entries = (0..k0).flat_map(|i| (0..k1).map(move |j| (i * d0, j * d1)));
        let seen = entries.map(|(top, left)| {
            let (bottom, right) = (top + (height - 1) * s0 + 1, left + (width - 1) * s1 + 1);
            let part = padded.clone().slice(s![.., .., top..bottom; s0 as isize, left..right; s1 as isize]);
            part.reshape([n, channels, 1, height * width])
        });
        Tensor::cat(seen.collect(), 2)
    }
}

/// Burn's padding for as many outputs as inputs over the stride; an odd remainder goes to the end.
fn same(length: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let needed = (length.div_ceil(stride).max(1) - 1) * stride + kernel;
    let total = needed.saturating_sub(length);
    (total / 2, total - total / 2)
}

/// The parameters of a convolution, flattened.
fn parts(weight: Tensor<1>, bias: &Option<Param<Tensor<1>>>) -> Vec<Tensor<1>> {
    std::iter::once(weight).chain(bias.as_ref().map(|bias| bias.val())).collect()
}

/// A kernel `[cols, …]` and bias moved by a block `[rows, cols]`.
fn moved<const R: usize>(
    weight: Param<Tensor<R>>,
    bias: Option<Param<Tensor<1>>>,
    by: Tensor<2>,
    shape: [usize; R],
) -> (Param<Tensor<R>>, Option<Param<Tensor<1>>>) {
    let (cols, entries) = (shape[0], shape[1..].iter().product::<usize>());
    let kernel = by.clone().slice(s![..entries, ..]).transpose().reshape(shape);
    let weight = Param::from_tensor(weight.val() + kernel).no_grad();
    let bias = bias.map(|bias| Param::from_tensor(bias.val() + by.slice(s![entries.., ..]).reshape([cols])).no_grad());
    (weight, bias)
}
