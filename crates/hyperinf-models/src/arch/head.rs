use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use hyperinf_gradients::Tape;

use super::init::Init;
use crate::{Encoder, RecordedLayers, TokenBatch};

/// The kinds of [`Head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// [`Head::Mean`].
    Mean,
    /// [`Head::Pooler`], in BERT.
    Pooler,
    /// [`Head::Dense`], in RoBERTa.
    Dense,
}

/// A classification head: how hidden states become logits.
#[derive(Module, Debug)]
pub enum Head {
    /// The mean over a sample's tokens, and a linear layer `[d, classes]`.
    Mean(Linear),
    /// The encoder's pooler on the first token, and a linear layer `[d, classes]`: BERT's head. The pooler belongs to
    /// the frozen encoder.
    Pooler(Linear),
    /// The first token, and two linear layers with tanh between them: RoBERTa's head.
    Dense(DenseHead),
}

/// RoBERTa's head, `out_proj(tanh(dense(h)))`.
#[derive(Module, Debug)]
pub struct DenseHead {
    /// `[d, d]`.
    pub dense: Linear,
    /// `[d, classes]`.
    pub out_proj: Linear,
}

impl Head {
    pub(super) fn new(kind: HeadKind, width: usize, classes: usize, init: &mut Init<'_>) -> Self {
        match kind {
            HeadKind::Mean => Self::Mean(init.linear(width, classes)),
            HeadKind::Pooler => Self::Pooler(init.linear(width, classes)),
            HeadKind::Dense => {
                Self::Dense(DenseHead { dense: init.linear(width, width), out_proj: init.linear(width, classes) })
            }
        }
    }

    /// The layers with their names in an adapter's file, in the order of use.
    pub(super) fn linears(&self) -> Vec<(&'static str, &Linear)> {
        match self {
            Self::Mean(linear) | Self::Pooler(linear) => vec![("base_model.model.classifier", linear)],
            Self::Dense(DenseHead { dense, out_proj }) => {
                vec![("base_model.model.classifier.dense", dense), ("base_model.model.classifier.out_proj", out_proj)]
            }
        }
    }

    /// The number of classes.
    pub(super) fn classes(&self) -> usize {
        let (Self::Mean(last) | Self::Pooler(last) | Self::Dense(DenseHead { out_proj: last, .. })) = self;
        let [_, classes] = last.weight.dims();
        classes
    }

    /// The logits `[n, classes]`.
    pub(super) fn forward(
        &self,
        encoder: &Encoder,
        tokens: &TokenBatch,
        recorded: RecordedLayers,
        tape: &mut Tape,
    ) -> Tensor<2> {
        let mut state = match self {
            Self::Mean(_) => encoder.pooled(tokens, tape),
            Self::Pooler(_) => encoder.first_pooled(tokens, tape),
            Self::Dense(_) => encoder.first(tokens, tape),
        };
        for (at, (name, layer)) in self.linears().into_iter().enumerate() {
            if at > 0 {
                state = state.tanh();
            }
            state = match recorded {
                RecordedLayers::Adapters => layer.forward(state),
                RecordedLayers::AdaptersAndHead => tape.linear(&format!("{name}.weight"), layer, state),
            };
        }
        state
    }
}
