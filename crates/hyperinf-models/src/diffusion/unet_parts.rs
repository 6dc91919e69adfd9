use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::Tensor;
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::attention::{Attention, AttentionSizes, Rows, Text, silu};
use super::unet_config::{UNetConfig, UNetLevel};
use crate::arch::builder::Builder;
use crate::{AdaptableLinear, ModelError};

/// The `ε` before transformer blocks, and inside of them.
const OUTER_EPSILON: f64 = 1e-6;
const INNER_EPSILON: f64 = 1e-5;

/// Normalisation over groups of channels and all pixels, with a gain and shift per channel (Wu & He 2018).
#[derive(Module, Debug)]
pub(super) struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    pub(super) fn build(
        builder: &mut Builder<'_>,
        name: &str,
        channels: usize,
        groups: usize,
        epsilon: f64,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            weight: builder.vector(&format!("{name}.weight"), channels)?,
            bias: builder.vector(&format!("{name}.bias"), channels)?,
            groups,
            epsilon,
        })
    }

    /// `x`: `[m, c, h, w]`; output: the same.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::group_norm(self.weight.val(), self.bias.val(), self.groups, self.epsilon, x)
    }
}

/// Two convolutions with the timestep added between them, and the input added at the end: diffusers' `ResnetBlock2D`.
#[derive(Module, Debug)]
pub(super) struct Residual {
    norm1: GroupNorm,
    conv1: Conv2d,
    /// None in an autoencoder.
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl Residual {
    pub(super) fn build(
        builder: &mut Builder<'_>,
        name: &str,
        [inputs, outputs]: [usize; 2],
        time: Option<usize>,
        (groups, epsilon): (usize, f64),
    ) -> Result<Self, ModelError> {
        let part = |part: &str| format!("{name}.{part}");
        Ok(Self {
            norm1: GroupNorm::build(builder, &part("norm1"), inputs, groups, epsilon)?,
            conv1: builder.convolution(&part("conv1"), [inputs, outputs, 3], 1)?,
            time_emb_proj: match time {
                Some(time) => Some(builder.linear(&part("time_emb_proj"), time, outputs, true)?),
                None => None,
            },
            norm2: GroupNorm::build(builder, &part("norm2"), outputs, groups, epsilon)?,
            conv2: builder.convolution(&part("conv2"), [outputs, outputs, 3], 1)?,
            conv_shortcut: if inputs == outputs {
                None
            } else {
                Some(builder.convolution(&part("conv_shortcut"), [inputs, outputs, 1], 1)?)
            },
        })
    }

    /// `x`: `[m, c, h, w]`; `time`: `SiLU` of the timestep's embedding, `[m, d]`, if the block was built for one.
    pub(super) fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        let mut inner = ops::convolution(&self.conv1, silu(self.norm1.forward(x.clone())));
        if let (Some(layer), Some(time)) = (&self.time_emb_proj, time) {
            let time = layer.forward(time.clone());
            let [m, c] = time.dims();
            inner = inner + time.reshape([m, c, 1, 1]);
        }
        let inner = ops::convolution(&self.conv2, silu(self.norm2.forward(inner)));
        match &self.conv_shortcut {
            Some(shortcut) => ops::add(ops::convolution(shortcut, x), inner),
            None => ops::add(x, inner),
        }
    }
}

/// Transformer blocks on the pixels of a level: diffusers' `Transformer2DModel`.
#[derive(Module, Debug)]
pub(super) struct PixelTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

/// Attention to itself, to the text, and a gated feed-forward part: diffusers' `BasicTransformerBlock`.
#[derive(Module, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: AdaptableLinear,
    ff_out: AdaptableLinear,
}

impl PixelTransformer {
    pub(super) fn build(
        builder: &mut Builder<'_>,
        name: &str,
        level: &UNetLevel,
        config: &UNetConfig,
    ) -> Result<Self, ModelError> {
        let width = level.channels;
        let projection = |builder: &mut Builder<'_>, part: &str| {
            let name = format!("{name}.{part}");
            if config.linear_projection {
                builder.linear(&name, width, width, true)
            } else {
                builder.patches(&name, [width, width, 1])
            }
        };
        let proj_in = projection(builder, "proj_in")?;
        let proj_out = projection(builder, "proj_out")?;
        let block = |index| {
            TransformerBlock::build(builder, &format!("{name}.transformer_blocks.{index}"), level, config.text_width)
        };
        let transformer_blocks = (0..level.depth).map(block).collect::<Result<_, _>>()?;
        let norm = GroupNorm::build(builder, &format!("{name}.norm"), width, config.groups, OUTER_EPSILON)?;
        Ok(Self { norm, proj_in, transformer_blocks, proj_out })
    }

    pub(super) fn forward(&self, x: Tensor<4>, text: &Text, rows: Rows, tape: &mut Tape) -> Tensor<4> {
        let [m, c, h, w] = x.dims();
        let inner = self.norm.forward(x.clone()).reshape([m, c, h * w]).swap_dims(1, 2);
        let mut inner = ops::linear(&self.proj_in, inner);
        for block in &self.transformer_blocks {
            inner = block.forward(inner, text, rows, tape);
        }
        let inner = ops::linear(&self.proj_out, inner).swap_dims(1, 2).reshape([m, c, h, w]);
        ops::add(x, inner)
    }

    /// Calls `visit` with every linear layer of the blocks and its name.
    pub(super) fn visit(&mut self, name: &str, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        for (index, block) in self.transformer_blocks.iter_mut().enumerate() {
            let name = format!("{name}.transformer_blocks.{index}");
            for (attention, part) in [("attn1", &mut block.attn1), ("attn2", &mut block.attn2)] {
                for (layer, linear) in part.linears() {
                    visit(&format!("{name}.{attention}.{layer}"), linear);
                }
            }
            visit(&format!("{name}.ff.net.0.proj"), &mut block.ff_in);
            visit(&format!("{name}.ff.net.2"), &mut block.ff_out);
        }
    }
}

impl TransformerBlock {
    fn build(builder: &mut Builder<'_>, name: &str, level: &UNetLevel, text: usize) -> Result<Self, ModelError> {
        let (width, heads) = (level.channels, level.heads);
        let part = |part: &str| format!("{name}.{part}");
        let own = AttentionSizes { width, seen: width, heads, bias: false };
        let inner = 4 * width;
        Ok(Self {
            norm1: builder.layer_norm(&part("norm1"), width, INNER_EPSILON)?,
            attn1: Attention::build(builder, &part("attn1"), own)?,
            norm2: builder.layer_norm(&part("norm2"), width, INNER_EPSILON)?,
            attn2: Attention::build(builder, &part("attn2"), AttentionSizes { seen: text, ..own })?,
            norm3: builder.layer_norm(&part("norm3"), width, INNER_EPSILON)?,
            ff_in: AdaptableLinear::Plain(builder.linear(&part("ff.net.0.proj"), width, 2 * inner, true)?),
            ff_out: AdaptableLinear::Plain(builder.linear(&part("ff.net.2"), inner, width, true)?),
        })
    }

    fn forward(&self, x: Tensor<3>, text: &Text, rows: Rows, tape: &mut Tape) -> Tensor<3> {
        let normed = |layer: &LayerNorm, x: &Tensor<3>| ops::layer_norm(layer, INNER_EPSILON, x.clone());
        let x = ops::add(x.clone(), self.attn1.to_itself(normed(&self.norm1, &x), rows, tape));
        let seen = (text.states.clone(), text.hidden.clone());
        let x = ops::add(x.clone(), self.attn2.forward(normed(&self.norm2, &x), seen.0, seen.1, rows, tape));
        let parts = rows.linear(&self.ff_in, normed(&self.norm3, &x), tape);
        ops::add(x, rows.linear(&self.ff_out, ops::geglu(parts), tape))
    }
}
