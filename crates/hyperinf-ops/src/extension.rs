//! The fused functions as operations of the backend `flex`, with and without autodiff.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, DispatchDevice, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Bytes, DType, Tensor};

use crate::attention::attend;
use crate::convolution::{Window, convolve};
use crate::kernels::{self, Hidden, Rows, over_rows};
use crate::product::product;
use crate::steps;

/// Whether a tensor takes the fused path: f32 on `flex`.
pub(super) fn fits<const R: usize>(x: &Tensor<R>) -> bool {
    x.dtype() == DType::F32 && matches!(x.device().without_autodiff().as_dispatch(), DispatchDevice::Flex(_))
}

/// The operations. Every float tensor is f32; parameters (`weight`, `bias`, `gain`) are constants.
#[backend_extension(Flex, Autodiff)]
pub(super) trait Fused: Backend {
    fn fused_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self>;
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_swish(x: FloatTensor<Self>, slope: f64) -> FloatTensor<Self>;
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    fn fused_rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_attention_weights(scores: FloatTensor<Self>, hidden: BoolTensor<Self>, scale: f64) -> FloatTensor<Self>;
    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        hidden: BoolTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
    fn fused_cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self>;
}

impl Fused for Flex {
    fn fused_product(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        product(x, weight, None)
    }

    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        product(x, weight, Some(bias))
    }

    fn fused_convolution(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, window: Window) -> FlexTensor {
        convolve(x, &contiguous(weight), bias, window).0
    }

    fn fused_gelu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(x);
        filled(&x, 1, &kernels::Gelu { x: x.storage() })
    }

    fn fused_gelu_tanh(x: FlexTensor) -> FlexTensor {
        let x = contiguous(x);
        filled(&x, 1, &kernels::GeluTanh { x: x.storage() })
    }

    fn fused_swish(x: FlexTensor, slope: f64) -> FlexTensor {
        let x = contiguous(x);
        filled(&x, 1, &kernels::Swish { x: x.storage(), slope: slope as f32 })
    }

    fn fused_layer_norm(x: FlexTensor, gain: FlexTensor, bias: FlexTensor, epsilon: f64) -> FlexTensor {
        let (x, gain, bias) = (contiguous(x), contiguous(gain), contiguous(bias));
        let (gain, bias) = (gain.storage::<f32>(), bias.storage());
        filled(&x, gain.len(), &kernels::LayerNorm { x: x.storage(), gain, bias, epsilon: epsilon as f32 })
    }

    fn fused_rms_norm(x: FlexTensor, gain: FlexTensor, epsilon: f64) -> FlexTensor {
        let (x, gain) = (contiguous(x), contiguous(gain));
        let gain = gain.storage::<f32>();
        filled(&x, gain.len(), &kernels::RmsNorm { x: x.storage(), gain, epsilon: epsilon as f32 })
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (contiguous(gate), contiguous(up));
        filled(&gate, 1, &kernels::SwiGlu { gate: gate.storage(), up: up.storage() })
    }

    fn fused_attention_weights(scores: FlexTensor, hidden: FlexTensor, scale: f64) -> FlexTensor {
        let hidden = contiguous(hidden);
        let (dims, full) = (sides(&hidden), sides(&scores));
        let hidden = Hidden::new(hidden.bytes(), dims, full);
        rewritten(scores, full[3], &kernels::AttentionWeights { hidden, scale: scale as f32, length: full[3] })
    }

    fn fused_attention(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        hidden: FlexTensor,
        scale: f64,
    ) -> FlexTensor {
        attend(query, key, value, hidden, scale, false).0
    }

    fn fused_cross_entropy(logits: FlexTensor, targets: FlexTensor) -> FlexTensor {
        let logits = contiguous(logits);
        let targets = indices(targets, &logits);
        losses(&logits, &levels(&logits), &targets)
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn fused_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, node), weight) = (x.into_parts(), weight.into_primitive());
        let output = product(x, weight.clone(), None);
        match steps::Linear.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(weight, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, node), weight) = (x.into_parts(), weight.into_primitive());
        let output = product(x, weight.clone(), Some(bias.into_primitive()));
        match steps::Linear.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(weight, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self> {
        let ((x, node), weight) = (x.into_parts(), contiguous(weight.into_primitive()));
        let (output, sizes) = convolve(x, &weight, bias.into_primitive(), window);
        match steps::Convolution.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((weight, sizes), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let output = Flex::fused_gelu(x.clone());
        match steps::Gelu.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(x, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let output = Flex::fused_gelu_tanh(x.clone());
        match steps::GeluTanh.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(x, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_swish(x: FloatTensor<Self>, slope: f64) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let output = Flex::fused_swish(x.clone(), slope);
        match steps::Swish.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((x, slope), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let gain = gain.into_primitive();
        let output = Flex::fused_layer_norm(x.clone(), gain.clone(), bias.into_primitive(), epsilon);
        match steps::LayerNorm.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((x, gain, epsilon), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let gain = gain.into_primitive();
        let output = Flex::fused_rms_norm(x.clone(), gain.clone(), epsilon);
        match steps::RmsNorm.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((x, gain, epsilon), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let output = Flex::fused_swiglu(gate.clone(), up.clone());
        match steps::SwiGlu.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((gate, up), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_attention_weights(scores: FloatTensor<Self>, hidden: BoolTensor<Self>, scale: f64) -> FloatTensor<Self> {
        let (scores, node) = scores.into_parts();
        let output = Flex::fused_attention_weights(scores, hidden, scale);
        match steps::AttentionWeights.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((output.clone(), scale), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        hidden: BoolTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let ((query, first), (key, second), (value, third)) =
            (query.into_parts(), key.into_parts(), value.into_parts());
        let attend = |keep| attend(query, key, value, hidden, scale, keep);
        match steps::Attention.prepare::<C>([first, second, third]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (output, saved) = attend(true);
                prepared.finish(saved, output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(attend(false).0),
        }
    }

    fn fused_cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        let logits = contiguous(logits);
        let targets = indices(targets, &logits);
        let levels = levels(&logits);
        let output = losses(&logits, &levels, &targets);
        match steps::CrossEntropy.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(steps::CrossEntropyState { logits, levels, targets }, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

/// The tensor with its elements in order.
pub(super) fn contiguous(x: FlexTensor) -> FlexTensor {
    // By value: a contiguous tensor stays the only owner of its storage, which `rewritten` can then reuse.
    x.to_contiguous()
}

/// A new tensor in the shape of `like`, filled by a kernel.
pub(super) fn filled(like: &FlexTensor, length: usize, kernel: &impl Rows) -> FlexTensor {
    let shape = like.shape();
    let mut out = vec![0.0_f32; shape.num_elements()];
    over_rows(kernel, length, &mut out);
    FlexTensor::new(Bytes::from_elems(out), Layout::contiguous(shape), DType::F32)
}

/// The tensor overwritten by a kernel, in place if it is the only owner of its storage.
pub(super) fn rewritten(x: FlexTensor, length: usize, kernel: &impl Rows) -> FlexTensor {
    let mut x = contiguous(x);
    over_rows(kernel, length, x.storage_mut());
    x
}

fn sides(x: &FlexTensor) -> [usize; 4] {
    let shape = x.shape();
    std::array::from_fn(|side| shape[side])
}

/// The targets as indices.
///
/// # Panics
///
/// If one is not below the number of classes.
fn indices(targets: FlexTensor, logits: &FlexTensor) -> Vec<usize> {
    let classes = logits.shape()[1];
    let data = contiguous(targets).into_data();
    let found = data.iter::<i64>().map(|target| match usize::try_from(target) {
        Ok(target) if target < classes => target,
        _ => panic!("cross_entropy: target {target} for {classes} classes"),
    });
    found.collect()
}

/// The two values of [`kernels::CrossEntropy`] for each row.
fn levels(logits: &FlexTensor) -> Vec<[f32; 2]> {
    let shape = logits.shape();
    let (rows, classes) = (shape[0], shape[1]);
    let mut out = vec![[0.0; 2]; rows];
    over_rows(&kernels::CrossEntropy { logits: logits.storage(), classes }, 2, out.as_flattened_mut());
    out
}

fn losses(logits: &FlexTensor, levels: &[[f32; 2]], targets: &[usize]) -> FlexTensor {
    let classes = logits.shape()[1];
    let rows = logits.storage::<f32>().chunks_exact(classes);
    let loss = |((row, &[top, level]), &target): ((&[f32], &[f32; 2]), &usize)| level + (top - row[target]);
    let losses: Vec<f32> = rows.zip(levels).zip(targets).map(loss).collect();
    let layout = Layout::contiguous([losses.len()].into());
    FlexTensor::new(Bytes::from_elems(losses), layout, DType::F32)
}

/// Calls the operations on tensors that [`fits`] accepts.
pub(super) mod apply {
    use burn::backend::Dispatch;
    use burn::tensor::{Bool, Int, Tensor};

    use super::{Fused, Window};

    pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
        Tensor::from_dispatch(match bias {
            Some(bias) => Dispatch::fused_linear(x, weight, bias.into_dispatch()),
            None => Dispatch::fused_product(x, weight),
        })
    }

    pub(crate) fn convolution(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, window: Window) -> Tensor<4> {
        let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
        Tensor::from_dispatch(Dispatch::fused_convolution(x, weight, bias, window))
    }

    pub(crate) fn gelu<const R: usize>(x: Tensor<R>) -> Tensor<R> {
        Tensor::from_dispatch(Dispatch::fused_gelu(x.into_dispatch()))
    }

    pub(crate) fn gelu_tanh<const R: usize>(x: Tensor<R>) -> Tensor<R> {
        Tensor::from_dispatch(Dispatch::fused_gelu_tanh(x.into_dispatch()))
    }

    pub(crate) fn swish<const R: usize>(x: Tensor<R>, slope: f64) -> Tensor<R> {
        Tensor::from_dispatch(Dispatch::fused_swish(x.into_dispatch(), slope))
    }

    pub(crate) fn layer_norm<const R: usize>(
        x: Tensor<R>,
        gain: Tensor<1>,
        bias: Tensor<1>,
        epsilon: f64,
    ) -> Tensor<R> {
        let (x, gain, bias) = (x.into_dispatch(), gain.into_dispatch(), bias.into_dispatch());
        Tensor::from_dispatch(Dispatch::fused_layer_norm(x, gain, bias, epsilon))
    }

    pub(crate) fn rms_norm<const R: usize>(x: Tensor<R>, gain: Tensor<1>, epsilon: f64) -> Tensor<R> {
        Tensor::from_dispatch(Dispatch::fused_rms_norm(x.into_dispatch(), gain.into_dispatch(), epsilon))
    }

    pub(crate) fn swiglu<const R: usize>(gate: Tensor<R>, up: Tensor<R>) -> Tensor<R> {
        Tensor::from_dispatch(Dispatch::fused_swiglu(gate.into_dispatch(), up.into_dispatch()))
    }

    pub(crate) fn attention_weights(scores: Tensor<4>, hidden: Tensor<4, Bool>, scale: f64) -> Tensor<4> {
        Tensor::from_dispatch(Dispatch::fused_attention_weights(scores.into_dispatch(), hidden.into_dispatch(), scale))
    }

    pub(crate) fn attention(
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        hidden: Tensor<4, Bool>,
        scale: f64,
    ) -> Tensor<4> {
        let (query, key, value) = (query.into_dispatch(), key.into_dispatch(), value.into_dispatch());
        Tensor::from_dispatch(Dispatch::fused_attention(query, key, value, hidden.into_dispatch(), scale))
    }

    pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        Tensor::from_dispatch(Dispatch::fused_cross_entropy(logits.into_dispatch(), targets.into_dispatch()))
    }
}
