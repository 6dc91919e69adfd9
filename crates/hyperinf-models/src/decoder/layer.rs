use burn::module::{Module, Param};
use burn::tensor::{Bool, Tensor};
use hyperinf_gradients::Tape;

use super::build::Builder;
use super::{AttentionBias, DecoderConfig};
use crate::rotary::Rotary;
use crate::{ModelError, Projection, ops};

/// The gain of a root-mean-square normalisation, `[d]`.
#[derive(Module, Debug)]
pub(super) struct RmsNorm {
    weight: Param<Tensor<1>>,
}

impl RmsNorm {
    pub(super) fn build(builder: &mut Builder<'_>, name: &str, width: usize) -> Result<Self, ModelError> {
        Ok(Self { weight: builder.vector(&format!("{name}.weight"), width)? })
    }

    pub(super) fn forward(&self, x: Tensor<3>, epsilon: f64) -> Tensor<3> {
        ops::rms_norm(x, self.weight.val(), epsilon)
    }
}

/// `h ← x + attention(norm(x))`, `h + feed_forward(norm(h))`; fields have the names of Hugging Face's checkpoints.
#[derive(Module, Debug)]
pub(super) struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
}

#[derive(Module, Debug)]
struct FeedForward {
    gate_proj: Projection,
    up_proj: Projection,
    down_proj: Projection,
}

impl DecoderLayer {
    pub(super) fn build(builder: &mut Builder<'_>, name: &str, config: &DecoderConfig) -> Result<Self, ModelError> {
        let (width, inner) = (config.width, config.feed_forward);
        let (all, shared) = (config.heads * config.head_size, config.key_value_heads * config.head_size);
        let bias = config.attention_bias != AttentionBias::None;
        let output_bias = config.attention_bias == AttentionBias::All;
        let mut projection = |part: &str, d_input, d_output, bias| {
            builder.linear(&format!("{name}.{part}"), d_input, d_output, bias).map(Projection::Plain)
        };
        let self_attn = Attention {
            q_proj: projection("self_attn.q_proj", width, all, bias)?,
            k_proj: projection("self_attn.k_proj", width, shared, bias)?,
            v_proj: projection("self_attn.v_proj", width, shared, bias)?,
            o_proj: projection("self_attn.o_proj", all, width, output_bias)?,
        };
        let mlp = FeedForward {
            gate_proj: projection("mlp.gate_proj", width, inner, config.feed_forward_bias)?,
            up_proj: projection("mlp.up_proj", width, inner, config.feed_forward_bias)?,
            down_proj: projection("mlp.down_proj", inner, width, config.feed_forward_bias)?,
        };
        Ok(Self {
            input_layernorm: RmsNorm::build(builder, &format!("{name}.input_layernorm"), width)?,
            self_attn,
            post_attention_layernorm: RmsNorm::build(builder, &format!("{name}.post_attention_layernorm"), width)?,
            mlp,
        })
    }

    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        config: &DecoderConfig,
        rotary: &Rotary,
        hidden: Tensor<4, Bool>,
        tape: &mut Tape,
    ) -> Tensor<3> {
        let normed = self.input_layernorm.forward(x.clone(), config.norm_epsilon);
        let x = x + self.self_attn.forward(normed, config, rotary, hidden, tape);
        let normed = self.post_attention_layernorm.forward(x.clone(), config.norm_epsilon);
        x + self.mlp.forward(normed, tape)
    }

    /// The linear layers in the order of their use, each with its name within the layer.
    pub(super) fn projections(&mut self) -> [(&'static str, &mut Projection); 7] {
        [
            ("self_attn.q_proj", &mut self.self_attn.q_proj),
            ("self_attn.k_proj", &mut self.self_attn.k_proj),
            ("self_attn.v_proj", &mut self.self_attn.v_proj),
            ("self_attn.o_proj", &mut self.self_attn.o_proj),
            ("mlp.gate_proj", &mut self.mlp.gate_proj),
            ("mlp.up_proj", &mut self.mlp.up_proj),
            ("mlp.down_proj", &mut self.mlp.down_proj),
        ]
    }
}

impl Attention {
    fn forward(
        &self,
        x: Tensor<3>,
        config: &DecoderConfig,
        rotary: &Rotary,
        hidden: Tensor<4, Bool>,
        tape: &mut Tape,
    ) -> Tensor<3> {
        let [n, t, _] = x.dims();
        let (heads, shared, size) = (config.heads, config.key_value_heads, config.head_size);
        let split = |x: Tensor<3>, heads| x.reshape([n, t, heads, size]).swap_dims(1, 2);
        let query = rotary.turn(split(self.q_proj.forward(x.clone(), tape), heads));
        let key = rotary.turn(split(self.k_proj.forward(x.clone(), tape), shared));
        let value = split(self.v_proj.forward(x, tape), shared);
        let mixed = ops::attention(query, key, value, hidden, 1.0 / (size as f64).sqrt());
        self.o_proj.forward(mixed.swap_dims(1, 2).reshape([n, t, heads * size]), tape)
    }
}

impl FeedForward {
    fn forward(&self, x: Tensor<3>, tape: &mut Tape) -> Tensor<3> {
        let gate = self.gate_proj.forward(x.clone(), tape);
        let up = self.up_proj.forward(x, tape);
        self.down_proj.forward(ops::swiglu(gate, up), tape)
    }
}
