//! Element-wise functions and normalisations of transformers, in one place so that they can be made fast in one place.

use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Bool, Tensor, activation};

/// `x W + b` for `[n, t, d_input]`, as one two-dimensional product: faster than a batch of small ones.
pub(crate) fn linear(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [n, t, d_input] = x.dims();
    let [_, d_output] = layer.weight.dims();
    layer.forward(x.reshape([n * t, d_input])).reshape([n, t, d_output])
}

/// `x Φ(x)`, with the exact normal distribution function.
pub(crate) fn gelu(x: Tensor<3>) -> Tensor<3> {
    activation::gelu(x)
}

/// Layer normalisation over the last dimension.
pub(crate) fn layer_norm(layer: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
    layer.forward(x)
}

/// `x / √(mean(x²) + ε) · gain` over the last dimension; `gain` `[d]`.
pub(crate) fn rms_norm(x: Tensor<3>, gain: Tensor<1>, epsilon: f64) -> Tensor<3> {
    let mean = (x.clone() * x.clone()).mean_dim(2);
    x / (mean + epsilon).sqrt() * gain.unsqueeze()
}

/// `silu(gate) · up`, with `silu(x) = x / (1 + e⁻ˣ)`.
pub(crate) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    activation::silu(gate) * up
}

/// Softmax over the keys of attention scores `[n, heads, t, t]`; weight 0 where `hidden`, of the same shape or with
/// sides of 1, is true.
pub(crate) fn attention_weights(scores: Tensor<4>, hidden: Tensor<4, Bool>) -> Tensor<4> {
    let hidden = hidden.expand(scores.dims());
    activation::softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 3)
}
