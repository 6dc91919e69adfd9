//! Calls the operations on tensors that [`fits`](crate::extension::fits) accepts.

use burn::backend::Dispatch;
use burn::tensor::{Bool, Int, Tensor};

use crate::convolution::Window;
use crate::extension::Fused;

pub(super) fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::fused_linear(x, weight, bias.into_dispatch()),
        None => Dispatch::fused_product(x, weight),
    })
}

pub(super) fn convolution(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, window: Window) -> Tensor<4> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_convolution(x, weight, bias, window))
}

pub(super) fn add<const R: usize>(a: Tensor<R>, b: Tensor<R>) -> Tensor<R> {
    Tensor::from_dispatch(Dispatch::fused_add(a.into_dispatch(), b.into_dispatch()))
}

pub(super) fn with_leaf<const R: usize>(x: Tensor<R>, zeros: Tensor<R>) -> Tensor<R> {
    Tensor::from_dispatch(Dispatch::fused_with_leaf(x.into_dispatch(), zeros.into_dispatch()))
}

pub(super) fn gelu<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    Tensor::from_dispatch(Dispatch::fused_gelu(x.into_dispatch()))
}

pub(super) fn gelu_tanh<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    Tensor::from_dispatch(Dispatch::fused_gelu_tanh(x.into_dispatch()))
}

pub(super) fn swish<const R: usize>(x: Tensor<R>, slope: f64) -> Tensor<R> {
    Tensor::from_dispatch(Dispatch::fused_swish(x.into_dispatch(), slope))
}

pub(super) fn layer_norm<const R: usize>(x: Tensor<R>, gain: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<R> {
    let (x, gain, bias) = (x.into_dispatch(), gain.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_layer_norm(x, gain, bias, epsilon))
}

pub(super) fn group_norm(x: Tensor<4>, gain: Tensor<1>, bias: Tensor<1>, (groups, epsilon): (usize, f64)) -> Tensor<4> {
    let (x, gain, bias) = (x.into_dispatch(), gain.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_group_norm(x, gain, bias, groups, epsilon))
}

pub(super) fn rms_norm<const R: usize>(x: Tensor<R>, gain: Tensor<1>, epsilon: f64) -> Tensor<R> {
    Tensor::from_dispatch(Dispatch::fused_rms_norm(x.into_dispatch(), gain.into_dispatch(), epsilon))
}

pub(super) fn swiglu<const R: usize>(gate: Tensor<R>, up: Tensor<R>) -> Tensor<R> {
    Tensor::from_dispatch(Dispatch::fused_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

pub(super) fn geglu<const R: usize>(parts: Tensor<R>) -> Tensor<R> {
    Tensor::from_dispatch(Dispatch::fused_geglu(parts.into_dispatch()))
}

pub(super) fn attention_weights(scores: Tensor<4>, hidden: Tensor<4, Bool>, scale: f64) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::fused_attention_weights(scores.into_dispatch(), hidden.into_dispatch(), scale))
}

pub(super) fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    hidden: Tensor<4, Bool>,
    scale: f64,
) -> Tensor<4> {
    let (query, key, value) = (query.into_dispatch(), key.into_dispatch(), value.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_attention(query, key, value, hidden.into_dispatch(), scale))
}

pub(super) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::fused_cross_entropy(logits.into_dispatch(), targets.into_dispatch()))
}
