use burn::module::Module;
use burn::nn::LayerNorm;
use burn::tensor::{Bool, Device, Tensor};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::builder::Builder;
use super::encoder::{norm, plain};
use super::init::Init;
use crate::{Activation, AdaptableLinear, EncoderConfig, ModelError, NormPlacement};

/// Attention and a feed-forward part, each with a residual connection and a normalisation.
#[derive(Module, Debug)]
pub(crate) struct EncoderLayer {
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

    /// A layer of a vision encoder, with its names in Hugging Face's checkpoints.
    pub(crate) fn build(builder: &mut Builder<'_>, name: &str, config: &EncoderConfig) -> Result<Self, ModelError> {
        let (width, inner) = (config.width, config.feed_forward);
        let attention_norm = builder.layer_norm(&format!("{name}.layer_norm1"), width, config.norm_epsilon)?;
        let feed_forward_norm = builder.layer_norm(&format!("{name}.layer_norm2"), width, config.norm_epsilon)?;
        let mut linear = |part: &str, d_input, d_output| {
            builder.linear(&format!("{name}.{part}"), d_input, d_output, true).map(AdaptableLinear::Plain)
        };
        Ok(Self {
            attention_norm,
            q_proj: linear("self_attn.q_proj", width, width)?,
            k_proj: linear("self_attn.k_proj", width, width)?,
            v_proj: linear("self_attn.v_proj", width, width)?,
            out_proj: linear("self_attn.out_proj", width, width)?,
            feed_forward_norm,
            fc1: linear("mlp.fc1", width, inner)?,
            fc2: linear("mlp.fc2", inner, width)?,
            heads: config.heads,
            norm_epsilon: config.norm_epsilon,
            norm: config.norm,
            activation: config.activation,
        })
    }

    /// `[rows, t, d]` to the same shape; `padding` `[rows, 1, 1, t]`, or broadcast to
    /// `[rows, heads, t, t]`, is true for keys to be hidden. Rows belong to
    /// `samples` samples, as many to each.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        padding: &Tensor<4, Bool>,
        samples: usize,
        tape: &mut Tape,
    ) -> Tensor<3> {
        let first = |x| ops::layer_norm(&self.attention_norm, self.norm_epsilon, x);
        let second = |x| ops::layer_norm(&self.feed_forward_norm, self.norm_epsilon, x);
        match self.norm {
            NormPlacement::Pre => {
                let x = ops::add(x.clone(), self.attention(first(x), padding, samples, tape));
                ops::add(x.clone(), self.feed_forward(second(x), samples, tape))
            }
            NormPlacement::Post => {
                let x = first(ops::add(x.clone(), self.attention(x, padding, samples, tape)));
                second(ops::add(x.clone(), self.feed_forward(x, samples, tape)))
            }
        }
    }

    fn attention(&self, x: Tensor<3>, padding: &Tensor<4, Bool>, samples: usize, tape: &mut Tape) -> Tensor<3> {
        let [n, t, d] = x.dims();
        let (heads, size) = (self.heads, d / self.heads);
        let split = |x: Tensor<3>| x.reshape([n, t, heads, size]).swap_dims(1, 2);
        let query = split(self.q_proj.forward_grouped(x.clone(), samples, tape));
        let key = split(self.k_proj.forward_grouped(x.clone(), samples, tape));
        let value = split(self.v_proj.forward_grouped(x, samples, tape));
        let mixed = ops::attention(query, key, value, padding.clone(), 1.0 / (size as f64).sqrt());
        self.out_proj.forward_grouped(mixed.swap_dims(1, 2).reshape([n, t, d]), samples, tape)
    }

    fn feed_forward(&self, x: Tensor<3>, samples: usize, tape: &mut Tape) -> Tensor<3> {
        let inner = self.fc1.forward_grouped(x, samples, tape);
        self.fc2.forward_grouped(self.activation.apply(inner), samples, tape)
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
