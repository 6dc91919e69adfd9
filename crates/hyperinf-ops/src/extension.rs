//! The fused functions as operations of the backend `flex`.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, DispatchDevice, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Bytes, DType, Shape, Tensor};

use crate::attention::attend;
use crate::convolution::{Window, convolve};
use crate::kernels::{self, Groups, Hidden, Rows, over_rows};
use crate::memory::{copied, zeros};
use crate::product::product;

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
    fn fused_add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `x`; the gradient of the output is also that of `zeros`.
    fn fused_with_leaf(x: FloatTensor<Self>, zeros: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_swish(x: FloatTensor<Self>, slope: f64) -> FloatTensor<Self>;
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    fn fused_group_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    fn fused_rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_geglu(parts: FloatTensor<Self>) -> FloatTensor<Self>;
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

    fn fused_add(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        // Into the one that nobody else holds, if there is one; a sum is the same either way round.
        let (into, other) = if a.is_unique() { (a, b) } else { (b, a) };
        let other = contiguous(other);
        rewritten(into, 1, &kernels::Add { x: other.storage() })
    }

    fn fused_with_leaf(x: FlexTensor, _: FlexTensor) -> FlexTensor {
        x
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

    fn fused_group_norm(x: FlexTensor, gain: FlexTensor, bias: FlexTensor, groups: usize, epsilon: f64) -> FlexTensor {
        let (x, gain, bias) = (contiguous(x), contiguous(gain), contiguous(bias));
        let groups = Groups::of(sides(&x), groups, epsilon);
        filled(
            &x,
            groups.length(),
            &kernels::GroupNorm { x: x.storage(), gain: gain.storage(), bias: bias.storage(), groups },
        )
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

    fn fused_geglu(parts: FlexTensor) -> FlexTensor {
        let parts = contiguous(parts);
        let mut shape = parts.shape();
        let last = shape.num_dims() - 1;
        shape[last] /= 2;
        let length = shape[last];
        let mut out = zeros(shape.num_elements());
        over_rows(&kernels::Geglu { parts: parts.storage(), length }, length, &mut out);
        tensor(out, shape)
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

/// The tensor with its elements in order.
pub(super) fn contiguous(x: FlexTensor) -> FlexTensor {
    // By value: a contiguous tensor stays the only owner of its storage, which `rewritten` can then reuse.
    x.to_contiguous()
}

/// A new tensor in the shape of `like`, filled by a kernel.
pub(super) fn filled(like: &FlexTensor, length: usize, kernel: &impl Rows) -> FlexTensor {
    let shape = like.shape();
    let mut out = zeros(shape.num_elements());
    over_rows(kernel, length, &mut out);
    tensor(out, shape)
}

/// Numbers in order as a tensor.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32)
}

/// The tensor overwritten by a kernel, in place if it is the only owner of its storage.
pub(super) fn rewritten(x: FlexTensor, length: usize, kernel: &impl Rows) -> FlexTensor {
    let mut x = contiguous(x);
    if !x.is_unique() {
        x = tensor(copied(x.storage()), x.shape());
    }
    over_rows(kernel, length, x.storage_mut());
    x
}

pub(super) fn sides(x: &FlexTensor) -> [usize; 4] {
    let shape = x.shape();
    std::array::from_fn(|side| shape[side])
}

/// The targets as indices.
///
/// # Panics
///
/// If one is not below the number of classes.
pub(super) fn indices(targets: FlexTensor, logits: &FlexTensor) -> Vec<usize> {
    let classes = logits.shape()[1];
    let data = contiguous(targets).into_data();
    let found = data.iter::<i64>().map(|target| match usize::try_from(target) {
        Ok(target) if target < classes => target,
        _ => panic!("cross_entropy: target {target} for {classes} classes"),
    });
    found.collect()
}

/// The two values of [`kernels::CrossEntropy`] for each row.
pub(super) fn levels(logits: &FlexTensor) -> Vec<[f32; 2]> {
    let shape = logits.shape();
    let (rows, classes) = (shape[0], shape[1]);
    let mut out = vec![[0.0; 2]; rows];
    over_rows(&kernels::CrossEntropy { logits: logits.storage(), classes }, 2, out.as_flattened_mut());
    out
}

pub(super) fn losses(logits: &FlexTensor, levels: &[[f32; 2]], targets: &[usize]) -> FlexTensor {
    let classes = logits.shape()[1];
    let rows = logits.storage::<f32>().chunks_exact(classes);
    let loss = |((row, &[top, level]), &target): ((&[f32], &[f32; 2]), &usize)| level + (top - row[target]);
    let losses: Vec<f32> = rows.zip(levels).zip(targets).map(loss).collect();
    let count = losses.len();
    tensor(losses, [count])
}
