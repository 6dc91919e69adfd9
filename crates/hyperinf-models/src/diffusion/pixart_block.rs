use burn::module::{Module, Param};
use burn::tensor::{Bool, Tensor};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::config::PixArtConfig;
use crate::arch::builder::Builder;
use crate::{AdaptableLinear, ModelError};

/// Where the rows of a batch come from: `n` samples with `K` rows each.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// `n`.
    pub(super) samples: usize,
    /// `n · K`.
    pub(super) all: usize,
}

/// The text that rows attend to.
pub(super) struct Text {
    /// `[n, u, d]`, or `[n · K, u, d]`.
    pub(super) states: Tensor<3>,
    /// `[n, 1, 1, u]`, or for all rows.
    pub(super) hidden: Tensor<4, Bool>,
}

/// Self-attention, attention to the text and a feed-forward part; the first and last of them modulated by the timestep
/// (Chen et al. 2023, *PixArt-α*, section 2.3). Fields are named as in diffusers' checkpoints.
#[derive(Module, Debug)]
pub(super) struct PixArtBlock {
    /// `[6, d]`: shift, scale and gate of the attention, then of the feed-forward part.
    scale_shift_table: Param<Tensor<2>>,
    attn1: Attention,
    attn2: Attention,
    ff_in: AdaptableLinear,
    ff_out: AdaptableLinear,
}

#[derive(Module, Debug)]
struct Attention {
    to_q: AdaptableLinear,
    to_k: AdaptableLinear,
    to_v: AdaptableLinear,
    to_out: AdaptableLinear,
}

impl PixArtBlock {
    pub(super) fn build(builder: &mut Builder<'_>, name: &str, config: &PixArtConfig) -> Result<Self, ModelError> {
        let width = config.width();
        let inner = 4 * width;
        let mut linear = |part: &str, d_input, d_output| {
            builder.linear(&format!("{name}.{part}"), d_input, d_output, true).map(AdaptableLinear::Plain)
        };
        let (ff_in, ff_out) = (linear("ff.net.0.proj", width, inner)?, linear("ff.net.2", inner, width)?);
        Ok(Self {
            scale_shift_table: builder.table(&format!("{name}.scale_shift_table"), [6, width])?,
            attn1: Attention::build(builder, &format!("{name}.attn1"), config)?,
            attn2: Attention::build(builder, &format!("{name}.attn2"), config)?,
            ff_in,
            ff_out,
        })
    }

    /// `x`: `[n · K, t, d]`; `time`: `[n · K, 6, d]`.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        time: Tensor<3>,
        text: &Text,
        config: &PixArtConfig,
        rows: Rows,
        tape: &mut Tape,
    ) -> Tensor<3> {
        let parts = time + self.scale_shift_table.val().unsqueeze();
        let part = |index: usize| parts.clone().narrow(1, index, 1);
        let normed = |x: Tensor<3>| ops::standardize(x, config.norm_epsilon);
        let seen = normed(x.clone()) * (part(1) + 1.0) + part(0);
        let none = Tensor::<4, Bool>::from_data([[[[false]]]], &x.device().without_autodiff());
        let x = x + self.attn1.forward(seen.clone(), seen, none, config, rows, tape) * part(2);
        let seen = self.attn2.forward(x.clone(), text.states.clone(), text.hidden.clone(), config, rows, tape);
        let x = x + seen;
        let seen = normed(x.clone()) * (part(4) + 1.0) + part(3);
        let inner = ops::gelu_tanh(rows.linear(&self.ff_in, seen, tape));
        x + rows.linear(&self.ff_out, inner, tape) * part(5)
    }

    /// The linear layers with their names within this block, in the order of use.
    pub(super) fn linears(&mut self) -> [(&'static str, &mut AdaptableLinear); 10] {
        [
            ("attn1.to_q", &mut self.attn1.to_q),
            ("attn1.to_k", &mut self.attn1.to_k),
            ("attn1.to_v", &mut self.attn1.to_v),
            ("attn1.to_out.0", &mut self.attn1.to_out),
            ("attn2.to_q", &mut self.attn2.to_q),
            ("attn2.to_k", &mut self.attn2.to_k),
            ("attn2.to_v", &mut self.attn2.to_v),
            ("attn2.to_out.0", &mut self.attn2.to_out),
            ("ff.net.0.proj", &mut self.ff_in),
            ("ff.net.2", &mut self.ff_out),
        ]
    }
}

impl Rows {
    /// A layer on rows, with all rows of a sample as its positions: `[n · K, t, d]` through `[n, K · t, d]`.
    fn linear(self, layer: &AdaptableLinear, x: Tensor<3>, tape: &mut Tape) -> Tensor<3> {
        let [m, t, d] = x.dims();
        let y = layer.forward(x.reshape([self.samples, m * t / self.samples, d]), tape);
        let [_, _, d] = y.dims();
        y.reshape([m, t, d])
    }
}

impl Attention {
    fn build(builder: &mut Builder<'_>, name: &str, config: &PixArtConfig) -> Result<Self, ModelError> {
        let width = config.width();
        let mut linear = |part: &str, bias| {
            builder.linear(&format!("{name}.{part}"), width, width, bias).map(AdaptableLinear::Plain)
        };
        let bias = config.attention_bias;
        Ok(Self {
            to_q: linear("to_q", bias)?,
            to_k: linear("to_k", bias)?,
            to_v: linear("to_v", bias)?,
            to_out: linear("to_out.0", true)?,
        })
    }

    /// `x`: `[n · K, t, d]`; `seen`: `[g, u, d]`, where each of `g` groups of rows sees the same.
    fn forward(
        &self,
        x: Tensor<3>,
        seen: Tensor<3>,
        hidden: Tensor<4, Bool>,
        config: &PixArtConfig,
        rows: Rows,
        tape: &mut Tape,
    ) -> Tensor<3> {
        let ([m, t, d], [groups, u, _]) = (x.dims(), seen.dims());
        let split =
            |x: Tensor<3>, length: usize| x.reshape([groups, length, config.heads, config.head_size]).swap_dims(1, 2);
        let query = split(rows.linear(&self.to_q, x, tape), m / groups * t);
        let key = split(rows.linear(&self.to_k, seen.clone(), tape), u);
        let value = split(rows.linear(&self.to_v, seen, tape), u);
        let mixed = ops::attention(query, key, value, hidden, 1.0 / (config.head_size as f64).sqrt());
        rows.linear(&self.to_out, mixed.swap_dims(1, 2).reshape([m, t, d]), tape)
    }
}
