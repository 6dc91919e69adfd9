//! The fused functions with autodiff.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Autodiff, Flex};

use crate::attention::attend;
use crate::convolution::{Window, convolve};
use crate::extension::{Fused, contiguous, indices, levels, losses};
use crate::product::product;
use crate::steps;

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

    fn fused_add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((a, first), (b, second)) = (a.into_parts(), b.into_parts());
        steps::Sum.prepare::<C>([first, second]).compute_bound().stateless(Flex::fused_add(a, b))
    }

    fn fused_with_leaf(x: FloatTensor<Self>, zeros: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, first), (_, second)) = (x.into_parts(), zeros.into_parts());
        steps::Sum.prepare::<C>([first, second]).compute_bound().stateless(x)
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

    fn fused_group_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let gain = gain.into_primitive();
        let output = Flex::fused_group_norm(x.clone(), gain.clone(), bias.into_primitive(), groups, epsilon);
        match steps::GroupNorm.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((x, gain, groups, epsilon), output),
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

    fn fused_geglu(parts: FloatTensor<Self>) -> FloatTensor<Self> {
        let (parts, node) = parts.into_parts();
        let output = Flex::fused_geglu(parts.clone());
        match steps::Geglu.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(parts, output),
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
