//! The backward passes of the fused functions.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use crate::attention::{self, AttentionState};
use crate::convolution::{self, Sizes};
use crate::extension::{contiguous, filled, rewritten, sides};
use crate::kernels;
use crate::product::product;

#[derive(Debug)]
pub(super) struct Linear;

impl Backward<Flex, 1> for Linear {
    /// The weight.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let weight = ops.state.transpose(0, 1);
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| product(gradient, weight, None));
    }
}

#[derive(Debug)]
pub(super) struct Convolution;

impl Backward<Flex, 1> for Convolution {
    /// The weight, contiguous, and the sizes.
    type State = (FlexTensor, Sizes);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (weight, sizes) = ops.state;
        unary::<Flex, _>(ops.parents, ops.node, gradients, |given| convolution::gradient(given, &weight, sizes));
    }
}

/// A sum of two: both have the gradient of the output.
#[derive(Debug)]
pub(super) struct Sum;

impl Backward<Flex, 2> for Sum {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        for node in ops.parents.into_iter().flatten() {
            gradients.register::<Flex>(node.id, gradient.clone());
        }
    }
}

#[derive(Debug)]
pub(super) struct Gelu;

impl Backward<Flex, 1> for Gelu {
    /// The input.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let x = contiguous(ops.state);
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            rewritten(gradient, 1, &kernels::GeluGradient { x: x.storage() })
        });
    }
}

#[derive(Debug)]
pub(super) struct GeluTanh;

impl Backward<Flex, 1> for GeluTanh {
    /// The input.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let x = contiguous(ops.state);
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            rewritten(gradient, 1, &kernels::GeluTanhGradient { x: x.storage() })
        });
    }
}

#[derive(Debug)]
pub(super) struct Swish;

impl Backward<Flex, 1> for Swish {
    /// The input and the slope.
    type State = (FlexTensor, f64);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, slope) = ops.state;
        let x = contiguous(x);
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            rewritten(gradient, 1, &kernels::SwishGradient { x: x.storage(), slope: slope as f32 })
        });
    }
}

#[derive(Debug)]
pub(super) struct LayerNorm;

impl Backward<Flex, 1> for LayerNorm {
    /// Input, gain and `ε`.
    type State = (FlexTensor, FlexTensor, f64);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, gain, epsilon) = ops.state;
        let (x, gain) = (contiguous(x), contiguous(gain));
        let gain = gain.storage::<f32>();
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let kernel = kernels::LayerNormGradient { x: x.storage(), gain, epsilon: epsilon as f32 };
            rewritten(gradient, gain.len(), &kernel)
        });
    }
}

#[derive(Debug)]
pub(super) struct GroupNorm;

impl Backward<Flex, 1> for GroupNorm {
    /// Input, gain, the number of groups and `ε`.
    type State = (FlexTensor, FlexTensor, usize, f64);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, gain, groups, epsilon) = ops.state;
        let (x, gain) = (contiguous(x), contiguous(gain));
        let groups = kernels::Groups::of(sides(&x), groups, epsilon);
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let kernel = kernels::GroupNormGradient { x: x.storage(), gain: gain.storage(), groups };
            rewritten(gradient, groups.length(), &kernel)
        });
    }
}

#[derive(Debug)]
pub(super) struct RmsNorm;

impl Backward<Flex, 1> for RmsNorm {
    /// Input, gain and `ε`.
    type State = (FlexTensor, FlexTensor, f64);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, gain, epsilon) = ops.state;
        let (x, gain) = (contiguous(x), contiguous(gain));
        let gain = gain.storage::<f32>();
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let kernel = kernels::RmsNormGradient { x: x.storage(), gain, epsilon: epsilon as f32 };
            rewritten(gradient, gain.len(), &kernel)
        });
    }
}

#[derive(Debug)]
pub(super) struct SwiGlu;

impl Backward<Flex, 2> for SwiGlu {
    /// The gate and the other factor.
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (gate, up) = ops.state;
        let (gate, up) = (contiguous(gate), contiguous(up));
        let gradient = contiguous(gradients.consume::<Flex>(&ops.node));
        let [gate_node, up_node] = ops.parents;
        if let Some(node) = gate_node {
            let kernel = kernels::GateGradient { gate: gate.storage(), up: up.storage(), gradient: gradient.storage() };
            let found = filled(&gate, 1, &kernel);
            gradients.register::<Flex>(node.id, found);
        }
        if let Some(node) = up_node {
            gradients.register::<Flex>(node.id, rewritten(gradient, 1, &kernels::UpGradient { gate: gate.storage() }));
        }
    }
}

#[derive(Debug)]
pub(super) struct Geglu;

impl Backward<Flex, 1> for Geglu {
    /// The value and the gate.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let parts = contiguous(ops.state);
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let gradient = contiguous(gradient);
            let length = gradient.shape()[gradient.shape().num_dims() - 1];
            let kernel = kernels::GegluGradient { parts: parts.storage(), gradient: gradient.storage(), length };
            filled(&parts, 2 * length, &kernel)
        });
    }
}

#[derive(Debug)]
pub(super) struct AttentionWeights;

impl Backward<Flex, 1> for AttentionWeights {
    /// The weights and the scale.
    type State = (FlexTensor, f64);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (weights, scale) = ops.state;
        let weights = contiguous(weights);
        let length = weights.layout().shape()[3];
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let kernel = kernels::AttentionGradient { weights: weights.storage(), scale: scale as f32, length };
            rewritten(gradient, length, &kernel)
        });
    }
}

#[derive(Debug)]
pub(super) struct Attention;

impl Backward<Flex, 3> for Attention {
    type State = AttentionState;

    fn backward(self, ops: Ops<AttentionState, 3>, registry: &mut Gradients, _: &mut Checkpointer) {
        let found = attention::gradients(ops.state, registry.consume::<Flex>(&ops.node));
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let Some(node) = node {
                registry.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// The values that the backward pass of the cross-entropy needs.
#[derive(Clone, Debug)]
pub(super) struct CrossEntropyState {
    pub logits: FlexTensor,
    /// The two values of [`kernels::CrossEntropy`] for each row.
    pub levels: Vec<[f32; 2]>,
    pub targets: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct CrossEntropy;

impl Backward<Flex, 1> for CrossEntropy {
    type State = CrossEntropyState;

    fn backward(self, ops: Ops<CrossEntropyState, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let CrossEntropyState { logits, levels, targets } = ops.state;
        let classes = logits.layout().shape()[1];
        unary::<Flex, _>(ops.parents, ops.node, gradients, |gradient| {
            let gradient = contiguous(gradient);
            let kernel = kernels::CrossEntropyGradient {
                levels: &levels,
                targets: &targets,
                gradient: gradient.storage(),
                classes,
            };
            rewritten(logits, classes, &kernel)
        });
    }
}
