use burn::module::{Module, Param};
use burn::tensor::{Bool, Tensor};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::builder::Builder;
use super::rotary::Rotary;
use crate::{AdaptableLinear, AttentionBias, DecoderConfig, ModelError};

/// A root-mean-square normalisation with its gain `[d]`.
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

/// `h = x + attention(norm(x))`, then `h + feed_forward(norm(h))`. Fields are named as in Hugging Face's checkpoints.
#[derive(Module, Debug)]
pub(super) struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: AdaptableLinear,
    k_proj: AdaptableLinear,
    v_proj: AdaptableLinear,
    o_proj: AdaptableLinear,
}

#[derive(Module, Debug)]
struct FeedForward {
    gate_proj: AdaptableLinear,
    up_proj: AdaptableLinear,
    down_proj: AdaptableLinear,
}

impl DecoderLayer {
    pub(super) fn build(builder: &mut Builder<'_>, name: &str, config: &DecoderConfig) -> Result<Self, ModelError> {
        let (width, inner) = (config.width, config.feed_forward);
        let (all, shared) = (config.heads * config.head_size, config.key_value_heads * config.head_size);
        let bias = config.attention_bias != AttentionBias::None;
        let output_bias = config.attention_bias == AttentionBias::All;
        let mut linear = |part: &str, d_input, d_output, bias| {
            builder.linear(&format!("{name}.{part}"), d_input, d_output, bias).map(AdaptableLinear::Plain)
        };
        let self_attn = Attention {
            q_proj: linear("self_attn.q_proj", width, all, bias)?,
            k_proj: linear("self_attn.k_proj", width, shared, bias)?,
            v_proj: linear("self_attn.v_proj", width, shared, bias)?,
            o_proj: linear("self_attn.o_proj", all, width, output_bias)?,
        };
        let mlp = FeedForward {
            gate_proj: linear("mlp.gate_proj", width, inner, config.feed_forward_bias)?,
            up_proj: linear("mlp.up_proj", width, inner, config.feed_forward_bias)?,
            down_proj: linear("mlp.down_proj", inner, width, config.feed_forward_bias)?,
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
        let x = ops::add(x, self.self_attn.forward(normed, config, rotary, hidden, tape));
        let normed = self.post_attention_layernorm.forward(x.clone(), config.norm_epsilon);
        ops::add(x, self.mlp.forward(normed, tape))
    }

    /// The linear layers with their names within this layer, in the order of use.
    pub(super) fn linears(&mut self) -> [(&'static str, &mut AdaptableLinear); 7] {
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
