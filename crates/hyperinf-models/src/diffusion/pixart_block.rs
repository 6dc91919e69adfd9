use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::attention::{Attention, AttentionSizes, Rows, Text};
use super::config::PixArtConfig;
use crate::arch::builder::Builder;
use crate::{AdaptableLinear, ModelError};

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

impl PixArtBlock {
    pub(super) fn build(builder: &mut Builder<'_>, name: &str, config: &PixArtConfig) -> Result<Self, ModelError> {
        let width = config.width();
        let inner = 4 * width;
        let sizes = AttentionSizes { width, seen: width, heads: config.heads, bias: config.attention_bias };
        let mut linear = |part: &str, d_input, d_output| {
            builder.linear(&format!("{name}.{part}"), d_input, d_output, true).map(AdaptableLinear::Plain)
        };
        let (ff_in, ff_out) = (linear("ff.net.0.proj", width, inner)?, linear("ff.net.2", inner, width)?);
        Ok(Self {
            scale_shift_table: builder.table(&format!("{name}.scale_shift_table"), [6, width])?,
            attn1: Attention::build(builder, &format!("{name}.attn1"), sizes)?,
            attn2: Attention::build(builder, &format!("{name}.attn2"), sizes)?,
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
        let x = ops::add(x, self.attn1.to_itself(seen, rows, tape) * part(2));
        let seen = self.attn2.forward(x.clone(), text.states.clone(), text.hidden.clone(), rows, tape);
        let x = ops::add(x, seen);
        let seen = normed(x.clone()) * (part(4) + 1.0) + part(3);
        let inner = ops::gelu_tanh(rows.linear(&self.ff_in, seen, tape));
        ops::add(x, rows.linear(&self.ff_out, inner, tape) * part(5))
    }

    /// Calls `visit` with every linear layer and its name, in the order of use.
    pub(super) fn visit(&mut self, name: &str, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        for (attention, part) in [("attn1", &mut self.attn1), ("attn2", &mut self.attn2)] {
            for (layer, linear) in part.linears() {
                visit(&format!("{name}.{attention}.{layer}"), linear);
            }
        }
        visit(&format!("{name}.ff.net.0.proj"), &mut self.ff_in);
        visit(&format!("{name}.ff.net.2"), &mut self.ff_out);
    }
}
