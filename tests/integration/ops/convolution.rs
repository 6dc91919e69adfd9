//! Convolutions against their definition, values and gradients.

use burn::module::{Module, Param};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2dConfig;
use burn::tensor::{DType, Tensor};
use hyperinf::ops;
use hyperinf_tests::compare::{assert_within, largest, values};
use hyperinf_tests::devices;

use super::{check, flat, noise};

/// The convolution of its definition: sums over windows, with zeros around the picture.
fn convolved(
    x: &[f64],
    [n, channels, h, w]: [usize; 4],
    layer: (&[f64], &[f64]),
    [outputs, kernel, stride]: [usize; 3],
    [top, left, bottom, right]: [usize; 4],
) -> Vec<f64> {
    let (weight, bias) = layer;
    let [rows, columns] = [(h + top + bottom - kernel) / stride + 1, (w + left + right - kernel) / stride + 1];
    let mut out = Vec::new();
    for (sample, output) in (0..n).flat_map(|n| (0..outputs).map(move |o| (n, o))) {
        for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let mut sum = bias[output];
            for (channel, down, over) in
                (0..channels).flat_map(|c| (0..kernel).flat_map(move |d| (0..kernel).map(move |o| (c, d, o))))
            {
                let (y, z) = (row * stride + down, column * stride + over);
                if y >= top && y - top < h && z >= left && z - left < w {
                    let pixel = x[((sample * channels + channel) * h + y - top) * w + z - left];
                    sum += pixel * weight[((output * channels + channel) * kernel + down) * kernel + over];
                }
            }
            out.push(sum);
        }
    }
    out
}

#[test]
fn convolution_is_that_of_the_definition() {
    for (sizes, [outputs, kernel, stride], padding) in [
        ([2, 3, 5, 7], [4, 3, 1], [1, 1, 1, 1]),
        ([1, 2, 6, 5], [3, 3, 2], [1, 1, 1, 1]),
        ([1, 2, 6, 6], [3, 3, 2], [0, 0, 1, 1]),
        ([3, 4, 3, 3], [5, 1, 1], [0, 0, 0, 0]),
        ([1, 1, 1, 1], [2, 3, 1], [1, 1, 1, 1]),
        ([1, 2, 2, 9], [3, 3, 1], [2, 3, 2, 0]),
        ([1, 2, 9, 2], [1, 5, 3], [2, 4, 1, 3]),
        // Wide enough for tiles: forwards and back, with tiles over the edge, and in one direction only.
        ([1, 33, 16, 15], [34, 3, 1], [1, 1, 1, 1]),
        ([1, 32, 6, 65], [32, 3, 1], [0, 2, 1, 0]),
        ([1, 33, 15, 17], [35, 3, 1], [2, 2, 2, 2]),
        ([1, 32, 14, 15], [32, 3, 1], [3, 0, 0, 4]),
        ([1, 33, 15, 15], [32, 3, 1], [0, 0, 3, 4]),
    ] {
        let [n, channels, h, w] = sizes;
        let weight = noise(outputs * channels * kernel * kernel, 0.5, 3);
        // Sums of many channels take their time.
        for with_bias in [true, false].into_iter().take(if channels < 32 { 2 } else { 1 }) {
            let bias = if with_bias { noise(outputs, 0.5, 4) } else { vec![0.0; outputs] };
            let fast = |inputs: &[Tensor<1>]| {
                let x = inputs[0].clone();
                let (device, dtype) = (x.device().without_autodiff(), x.dtype());
                let config = Conv2dConfig::new([channels, outputs], [kernel, kernel]).with_bias(with_bias);
                let mut layer = config.init(&device);
                let [top, left, bottom, right] = padding;
                layer.padding = PaddingConfig2d::Explicit(top, left, bottom, right);
                layer.stride = [stride, stride];
                let full = flat(&weight, &device, dtype).reshape([outputs, channels, kernel, kernel]);
                layer.weight = Param::from_tensor(full);
                layer.bias = with_bias.then(|| Param::from_tensor(flat(&bias, &device, dtype)));
                // Frozen, as the layers of a model are.
                let layer = layer.no_grad();
                ops::convolution(&layer, x.reshape([n, channels, h, w])).flatten::<1>(0, 3)
            };
            let oracle = |inputs: &[Vec<f64>]| {
                convolved(&inputs[0], sizes, (&weight, &bias), [outputs, kernel, stride], padding)
            };
            let what = format!("convolution of {sizes:?}, {kernel}, {stride}, {padding:?}");
            check(&what, &[noise(n * channels * h * w, 2.0, 5)], &fast, &oracle, 30.0);
        }
    }
}

/// Columns in many parts, and as many threads as there are: the convolution of Burn.
#[test]
fn a_convolution_of_a_large_picture_is_the_backends() {
    for ((name, device), outputs) in devices().into_iter().flat_map(|device| [6, 40].map(|o| (device.clone(), o))) {
        let config = Conv2dConfig::new([40, outputs], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        let layer = config.init(&device).no_grad();
        let x = flat(&noise(40 * 180 * 170, 1.0, 6), &device, DType::F32).reshape([1, 40, 180, 170]);
        let x = Tensor::cat(vec![x.clone(), x.mul_scalar(0.5)], 0);
        let expected = values(layer.forward(x.clone()).flatten::<1>(0, 3));
        let found = values(ops::convolution(&layer, x).flatten::<1>(0, 3));
        assert_within(&format!("{name}, {outputs}"), &found, &expected, 1e-5 * largest(&expected));
    }
}

/// Bits of a sample do not depend on the others, forwards and back, by tiles or windows.
#[test]
fn convolutions_of_many_samples_are_those_of_each() {
    for (name, device) in devices() {
        for side in [9, 17] {
            let config = Conv2dConfig::new([32, 32], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
            let layer = config.init(&device).no_grad();
            let run = |x: Tensor<4>| {
                let x = x.autodiff().require_grad();
                let out = ops::convolution(&layer, x.clone());
                let mut gradients = out.clone().powi_scalar(2).sum().backward();
                let given = x.grad_remove(&mut gradients).expect("the input reaches the output");
                [values(out.flatten::<1>(0, 3)), values(given.flatten::<1>(0, 3))]
            };
            let x = flat(&noise(3 * 32 * side * side, 1.0, 8), &device, DType::F32).reshape([3, 32, side, side]);
            let each = x.clone().split(1, 0).into_iter().map(run);
            let each = each.reduce(|before, more| [0, 1].map(|i| [&before[i][..], &more[i]].concat()));
            assert_eq!(Some(run(x)), each, "{name}, {side}");
        }
    }
}
