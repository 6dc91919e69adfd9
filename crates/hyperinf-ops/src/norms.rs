//! Normalisations.

use burn::nn::LayerNorm;
use burn::tensor::{Tensor, assert_shape};

#[cfg(feature = "flex")]
use crate::apply;
#[cfg(feature = "flex")]
use crate::extension::fits;

/// Layer normalisation over the last dimension (Ba et al. 2016): `(x − mean(x)) / √(var(x) + ε) · gain + bias`, with
/// the biased variance (divisor `d`).
///
/// `epsilon` must equal the layer's: Burn keeps it private, so the fused path cannot read it.
///
/// # Shapes
///
/// `x`: `[.., d]`; output: the same.
///
/// # Panics
///
/// If the last dimension is not the layer's `d`.
#[cfg_attr(not(feature = "flex"), expect(unused_variables, reason = "the composed path uses the layer's own"))]
pub fn layer_norm<const R: usize>(layer: &LayerNorm, epsilon: f64, x: Tensor<R>) -> Tensor<R> {
    #[cfg(feature = "flex")]
    if let Some(bias) = layer.beta.as_ref().map(|bias| bias.val())
        && fits(&x)
    {
        let gain = layer.gamma.val();
        let [d] = gain.dims();
        assert_shape!(x, [.., d]);
        if fits(&gain) && fits(&bias) && !gain.is_tracked() && !bias.is_tracked() {
            return apply::layer_norm(x, gain, bias, epsilon);
        }
    }
    layer.forward(x)
}

/// [`layer_norm`] without gain and bias: `(x − mean(x)) / √(var(x) + ε)` over the last dimension.
///
/// # Shapes
///
/// `x`: `[.., d]`; output: the same.
pub fn standardize<const R: usize>(x: Tensor<R>, epsilon: f64) -> Tensor<R> {
    #[cfg(feature = "flex")]
    if fits(&x) {
        let (d, device) = (x.dims()[R - 1], x.device().without_autodiff());
        return apply::layer_norm(x, Tensor::ones([d], &device), Tensor::zeros([d], &device), epsilon);
    }
    let centred = x.clone() - x.mean_dim(R - 1);
    let variance = centred.clone().square().mean_dim(R - 1);
    centred / (variance + epsilon).sqrt()
}

/// Normalisation over groups of channels and all their pixels (Wu & He 2018): `(x − mean) / √(var + ε) · gain + bias`
/// with the mean and the biased variance of the group, and a gain and bias for each channel.
///
/// # Shapes
///
/// `x`: `[n, c, h, w]`; `gain` and `bias`: `[c]`; output: as `x`.
///
/// # Panics
///
/// If `groups` does not divide `c`, or the gain or bias has another length.
pub fn group_norm(gain: Tensor<1>, bias: Tensor<1>, groups: usize, epsilon: f64, x: Tensor<4>) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    assert!(groups >= 1 && c.is_multiple_of(groups), "group_norm: {c} channels in {groups} groups");
    assert_shape!(gain, [c]);
    assert_shape!(bias, [c]);
    if n * c * h * w == 0 {
        return x;
    }
    #[cfg(feature = "flex")]
    if [&gain, &bias].into_iter().all(|value| fits(value) && !value.is_tracked()) && fits(&x) {
        return apply::group_norm(x, gain, bias, (groups, epsilon));
    }
    let normed = standardize(x.reshape([n, groups, c / groups * h * w]), epsilon).reshape([n, c, h, w]);
    normed * gain.reshape([1, c, 1, 1]) + bias.reshape([1, c, 1, 1])
}

/// Root-mean-square normalisation over the last dimension (Zhang & Sennrich 2019): `x / √(mean(x²) + ε) · gain`.
///
/// # Shapes
///
/// `x`: `[.., d]`; `gain`: `[d]`; output: as `x`.
///
/// # Panics
///
/// If the last dimension is not `d`.
pub fn rms_norm<const R: usize>(x: Tensor<R>, gain: Tensor<1>, epsilon: f64) -> Tensor<R> {
    let [d] = gain.dims();
    assert_shape!(x, [.., d]);
    #[cfg(feature = "flex")]
    if fits(&x) && fits(&gain) && !gain.is_tracked() {
        return apply::rms_norm(x, gain, epsilon);
    }
    let mean = (x.clone() * x.clone()).mean_dim(R - 1);
    x / (mean + epsilon).sqrt() * gain.unsqueeze()
}
