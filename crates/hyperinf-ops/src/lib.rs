//! The operations of transformers, fused on the processor.
//!
//! | function | computes |
//! |---|---|
//! | [`linear`], [`affine`] | `x W + b` |
//! | [`add`], [`with_leaf`] | sums of two tensors |
//! | [`convolution`] | a convolution of two dimensions |
//! | [`gelu`], [`gelu_tanh`], [`swish`], [`swiglu`], [`geglu`] | activations |
//! | [`layer_norm`], [`standardize`], [`group_norm`], [`rms_norm`] | normalisations |
//! | [`attention`], [`attention_weights`] | attention with a mask and shared key heads |
//! | [`cross_entropy`] | the negative log-likelihood of class targets |
//!
//! With the feature `flex`, f32 tensors on Burn's processor backend take a *fused* path: one vectorised pass over
//! memory on all cores, with a hand-written derivative. All other tensors take the *composed* path: Burn's own
//! operations, on any backend and in any floating-point type. So do parameters that require a gradient, such as an
//! unfrozen normalisation.
//!
//! Both paths compute the same function and can be differentiated. They differ by rounding: at most 8e-8 in the Φ of
//! [`gelu`], a few units in the last place elsewhere. Nothing depends on the fused path for correctness.
//!
//! ```
//! use burn::tensor::Tensor;
//!
//! # let (_, device) = hyperinf_tests::devices().remove(0);
//! let x = Tensor::<2>::from_floats([[3.0, 4.0]], &device);
//! let gain = Tensor::<1>::from_floats([1.0, 1.0], &device);
//! // The root mean square of 3 and 4 is 3.5355.
//! let y = hyperinf_ops::rms_norm(x, gain, 1e-6).into_data();
//! let y: Vec<f32> = y.iter().collect();
//! assert!((y[0] - 0.8485).abs() < 1e-4 && (y[1] - 1.1314).abs() < 1e-4);
//! ```

#[cfg(feature = "flex")]
mod apply;
#[cfg(feature = "flex")]
mod attention;
#[cfg(feature = "flex")]
mod convolution;
#[cfg(feature = "flex")]
mod extension;
#[cfg(feature = "flex")]
mod kernels;
#[cfg(feature = "flex")]
mod memory;
mod norms;
#[cfg(feature = "flex")]
mod product;
#[cfg(feature = "flex")]
mod steps;
mod sums;
#[cfg(feature = "flex")]
mod tracked;
#[cfg(feature = "flex")]
mod winograd;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use burn;
pub use norms::{group_norm, layer_norm, rms_norm, standardize};
pub use sums::{add, affine, with_leaf};

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::nn::Linear;
#[cfg(feature = "flex")]
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::{Bool, DType, Int, Tensor, activation, assert_shape};

#[cfg(feature = "flex")]
use extension::fits;

/// A linear layer, `x W + b`, applied to each position.
///
/// # Shapes
///
/// `x`: `[n, t, d_input]`; the layer's weight: `[d_input, d_output]`; output: `[n, t, d_output]`.
///
/// # Panics
///
/// If the last dimension is not `d_input`.
pub fn linear(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [n, t, d_input] = x.dims();
    let [_, d_output] = layer.weight.dims();
    let (weight, bias) = (layer.weight.val(), layer.bias.as_ref().map(|bias| bias.val()));
    // One large matrix product is faster than a batch of small ones.
    affine(x.reshape([n * t, d_input]), weight, bias).reshape([n, t, d_output])
}

/// A convolution of two dimensions. Fused, with kernels of 3 × 3 and one step, 32 channels and outputs and 64 tiles of
/// 2 × 2 or more: Winograd's F(2 × 2, 3 × 3) (Lavin & Gray, 2016), whose rounding is relative to the largest numbers of
/// the 4 × 4 inputs that a tile sees, where sums over windows see 3 × 3 for each output.
///
/// # Shapes
///
/// `x`: `[n, channels, h, w]`; the layer's weight: `[outputs, channels, k, k]`; output: `[n, outputs, h', w']`.
///
/// # Panics
///
/// If the channels are not the layer's, or the kernel is larger than the padded input.
pub fn convolution(layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let PaddingConfig2d::Explicit(top, left, bottom, right) = layer.padding
        && fits(&x)
        && layer.groups == 1
        && layer.dilation == [1, 1]
    {
        let (weight, bias) = (layer.weight.val(), layer.bias.as_ref().map(|bias| bias.val()));
        let constant = fits(&weight) && !weight.is_tracked();
        if constant && bias.as_ref().is_none_or(|bias| fits(bias) && !bias.is_tracked()) {
            let [outputs, channels, _, _] = weight.dims();
            assert_shape!(x, [_, channels, _, _]);
            let bias = bias.unwrap_or_else(|| Tensor::zeros([outputs], &x.device().without_autodiff()));
            let window = convolution::Window { stride: layer.stride, padding: [top, left, bottom, right] };
            return apply::convolution(x, weight, bias, window);
        }
    }
    layer.forward(x)
}

/// The exact GELU, `x Φ(x)` with the normal distribution function Φ (Hendrycks & Gimpel 2016).
///
/// # Shapes
///
/// `x`: any; output: the same.
pub fn gelu<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    #[cfg(feature = "flex")]
    if fits(&x) {
        return apply::gelu(x);
    }
    // Not `activation::gelu`: its derivative is that of the tanh approximation, off by up to 9e-4.
    let probability = x.clone().mul_scalar(FRAC_1_SQRT_2).erf().add_scalar(1.0).mul_scalar(0.5);
    x * probability
}

/// The tanh approximation of GELU, `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`, at most 5e-4 from [`gelu`]:
/// `gelu_pytorch_tanh`, `gelu-approximate`.
///
/// # Shapes
///
/// `x`: any; output: the same.
pub fn gelu_tanh<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    #[cfg(feature = "flex")]
    if fits(&x) {
        return apply::gelu_tanh(x);
    }
    let inner = (x.clone().square().mul_scalar(0.044715).add_scalar(1.0) * x.clone())
        .mul_scalar(FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
    x * inner.tanh().add_scalar(1.0).mul_scalar(0.5)
}

/// Swish, `x σ(β x)` with the slope β (Ramachandran et al. 2017): SiLU for 1, and CLIP's `quick_gelu` for 1.702.
///
/// # Shapes
///
/// `x`: any; output: the same.
pub fn swish<const R: usize>(x: Tensor<R>, slope: f64) -> Tensor<R> {
    #[cfg(feature = "flex")]
    if fits(&x) {
        return apply::swish(x, slope);
    }
    // By the hyperbolic tangent: a backend computes its sigmoid in f32.
    let sigmoid = x.clone().mul_scalar(0.5 * slope).tanh().add_scalar(1.0).mul_scalar(0.5);
    x * sigmoid
}

/// SwiGLU, `silu(gate) · up` with `silu(x) = x / (1 + e⁻ˣ)` (Shazeer 2020).
///
/// # Shapes
///
/// `gate`, `up` and output: all the same.
///
/// # Panics
///
/// If the shapes differ.
pub fn swiglu<const R: usize>(gate: Tensor<R>, up: Tensor<R>) -> Tensor<R> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: shapes of `gate` and `up`");
    #[cfg(feature = "flex")]
    if fits(&gate) && fits(&up) {
        return apply::swiglu(gate, up);
    }
    if gate.dtype() == DType::F64 {
        // The backend `ndarray` computes its sigmoid in f32.
        let sigmoid = gate.clone().mul_scalar(0.5).tanh().add_scalar(1.0).mul_scalar(0.5);
        return gate * sigmoid * up;
    }
    activation::silu(gate) * up
}

/// GEGLU, `value · gelu(gate)` with the exact [`gelu`] (Shazeer 2020), of both halves of the last dimension in this order.
///
/// # Shapes
///
/// `parts`: `[.., 2 d]`; output: `[.., d]`.
///
/// # Panics
///
/// If the last dimension is odd.
pub fn geglu<const R: usize>(parts: Tensor<R>) -> Tensor<R> {
    let both = parts.dims()[R - 1];
    assert!(both.is_multiple_of(2), "geglu: a last dimension of {both} has no halves");
    if both == 0 {
        return parts;
    }
    #[cfg(feature = "flex")]
    if fits(&parts) {
        return apply::geglu(parts);
    }
    let (value, gate) = (parts.clone().narrow(R - 1, 0, both / 2), parts.narrow(R - 1, both / 2, both / 2));
    value * gelu(gate)
}

/// Attention weights, `softmax(scale · scores)` over the last dimension, with weight 0 where `hidden` is true.
///
/// A fully hidden row has weight 0 throughout; a score of +∞ or NaN gives NaN.
///
/// # Shapes
///
/// `scores`: `[n, heads, t, u]`; `hidden`: broadcast to it, each side the same or 1; output: as `scores`.
///
/// # Panics
///
/// If a side of `hidden` is neither 1 nor that of `scores`.
pub fn attention_weights(scores: Tensor<4>, hidden: Tensor<4, Bool>, scale: f64) -> Tensor<4> {
    let dims = scores.dims();
    check_sides(&hidden, dims);
    #[cfg(feature = "flex")]
    if fits(&scores) {
        return apply::attention_weights(scores, hidden, scale);
    }
    let hidden = hidden.expand(dims);
    let scores = scores.mul_scalar(scale).mask_fill(hidden.clone(), f32::NEG_INFINITY);
    activation::softmax(scores, 3).mask_fill(hidden, 0.0)
}

fn check_sides(hidden: &Tensor<4, Bool>, scores: [usize; 4]) {
    let dims = hidden.dims();
    let fits = dims.into_iter().zip(scores).all(|(side, full)| side == 1 || side == full);
    assert!(fits, "attention: `hidden` of {dims:?} for scores of {scores:?}");
}

/// Attention (Vaswani et al. 2017): `softmax(scale · Q Kᵀ) V` for each head, with weight 0 where `hidden` is true.
///
/// With fewer key heads than query heads, consecutive query heads share one (Ainslie et al. 2023).
///
/// # Shapes
///
/// `query`: `[n, heads, t, s]`; `key` and `value`: `[n, shared, u, s]`; `hidden`: broadcast to `[n, heads, t, u]`, each
/// side the same or 1; output: `[n, heads, t, s]`.
///
/// # Panics
///
/// If `shared` does not divide `heads`, or other sides differ.
pub fn attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, hidden: Tensor<4, Bool>, scale: f64) -> Tensor<4> {
    let [n, heads, t, s] = query.dims();
    let [_, shared, u, _] = key.dims();
    assert!(shared >= 1 && heads.is_multiple_of(shared), "attention: {heads} query heads for {shared} key heads");
    assert_shape!(key, [n, _, _, s]);
    assert_shape!(value, [n, shared, u, s]);
    check_sides(&hidden, [n, heads, t, u]);
    #[cfg(feature = "flex")]
    if fits(&query) && fits(&key) && fits(&value) && [n, t, u, s].into_iter().all(|side| side >= 1) {
        return apply::attention(query, key, value, hidden, scale);
    }
    // Queries that share a key head are stacked into one taller matrix, which saves copies of keys and values.
    let rows = heads / shared * t;
    let query = if heads == shared { query } else { query.reshape([n, shared, rows, s]) };
    let scores = query.matmul(key.swap_dims(2, 3)).reshape([n, heads, t, u]);
    let weights = attention_weights(scores, hidden, scale).reshape([n, shared, rows, u]);
    weights.matmul(value).reshape([n, heads, t, s])
}

/// Cross-entropy, `−log softmax(logits)[target]` of each row, in nats.
///
/// # Shapes
///
/// `logits`: `[m, classes]`; `targets`: `[m]`; output: `[m]`.
///
/// # Panics
///
/// If the numbers of rows differ or a target is not below `classes`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [m, _] = logits.dims();
    assert_shape!(targets, [m]);
    #[cfg(feature = "flex")]
    if fits(&logits) {
        return apply::cross_entropy(logits, targets);
    }
    activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).squeeze_dim::<1>(1).neg()
}
