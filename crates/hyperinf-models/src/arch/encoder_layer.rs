use burn::module::Module;
use burn::nn::LayerNorm;
use burn::tensor::activation::{gelu_approximate, relu};
use burn::tensor::{Bool, Device, Tensor};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::encoder::{norm, plain};
use super::init::Init;
use crate::{Activation, AdaptableLinear, EncoderConfig, NormPlacement};

/// Attention and a feed-forward part, each with a residual connection and a normalisation.
#[derive(Module, Debug)]
pub(super) struct EncoderLayer {
    attention_norm: LayerNorm,
    q_proj: AdaptableLinear,
    k_proj: AdaptableLinear,
    v_proj: AdaptableLinear,
    out_proj: AdaptableLinear,
    feed_forward_norm: LayerNorm,
    fc1: AdaptableLinear,
    fc2: AdaptableLinear,
    heads: usize,
    norm_epsilon: f64,
    #[module(skip)]
    norm: NormPlacement,
    #[module(skip)]
    activation: Activation,
}

impl EncoderLayer {
    pub(super) fn new(config: &EncoderConfig, init: &mut Init<'_>, device: &Device) -> Self {
        let (width, inner) = (config.width, config.feed_forward);
        Self {
            attention_norm: norm(config, device),
            q_proj: plain(init, width, width),
            k_proj: plain(init, width, width),
            v_proj: plain(init, width, width),
            out_proj: plain(init, width, width),
            feed_forward_norm: norm(config, device),
            fc1: plain(init, width, inner),
            fc2: plain(init, inner, width),
            heads: config.heads,
            norm_epsilon: config.norm_epsilon,
            norm: config.norm,
            activation: config.activation,
        }
    }

    /// `[n, t, d]` to the same shape; `padding` `[n, 1, 1, t]` is true for keys to be hidden.
    pub(super) fn forward(&self, x: Tensor<3>, padding: &Tensor<4, Bool>, tape: &mut Tape) -> Tensor<3> {
        let first = |x| ops::layer_norm(&self.attention_norm, self.norm_epsilon, x);
        let second = |x| ops::layer_norm(&self.feed_forward_norm, self.norm_epsilon, x);
        match self.norm {
            NormPlacement::Pre => {
                let x = x.clone() + self.attention(first(x), padding, tape);
                x.clone() + self.feed_forward(second(x), tape)
            }
            NormPlacement::Post => {
                let x = first(x.clone() + self.attention(x, padding, tape));
                second(x.clone() + self.feed_forward(x, tape))
            }
        }
    }

    fn attention(&self, x: Tensor<3>, padding: &Tensor<4, Bool>, tape: &mut Tape) -> Tensor<3> {
        let [n, t, d] = x.dims();
        let (heads, size) = (self.heads, d / self.heads);
        let split = |x: Tensor<3>| x.reshape([n, t, heads, size]).swap_dims(1, 2);
        let query = split(self.q_proj.forward(x.clone(), tape));
        let key = split(self.k_proj.forward(x.clone(), tape));
        let value = split(self.v_proj.forward(x, tape));
        let mixed = ops::attention(query, key, value, padding.clone(), 1.0 / (size as f64).sqrt());
        self.out_proj.forward(mixed.swap_dims(1, 2).reshape([n, t, d]), tape)
    }

    fn feed_forward(&self, x: Tensor<3>, tape: &mut Tape) -> Tensor<3> {
        let inner = self.fc1.forward(x, tape);
        let active = match self.activation {
            Activation::Gelu => ops::gelu(inner),
            Activation::GeluTanh => gelu_approximate(inner),
            Activation::Relu => relu(inner),
        };
        self.fc2.forward(active, tape)
    }

    /// The linear layers with their names in this module, in the order of use.
    pub(super) fn linears(&mut self) -> [(&'static str, &mut AdaptableLinear); 6] {
        [
            ("q_proj", &mut self.q_proj),
            ("k_proj", &mut self.k_proj),
            ("v_proj", &mut self.v_proj),
            ("out_proj", &mut self.out_proj),
            ("fc1", &mut self.fc1),
            ("fc2", &mut self.fc2),
        ]
    }
}
