use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use hyperinf_gradients::Tape;
use hyperinf_ops::{add, convolution};

use super::attention::{Attention, AttentionSizes, Rows, silu};
use super::autoencoder_config::AutoencoderConfig;
use super::unet::doubled;
use super::unet_parts::{GroupNorm, Residual};
use crate::ModelError;
use crate::arch::builder::{Builder, WeightSource};

/// The `ε` of all normalisations.
const EPSILON: f64 = 1e-6;

/// The autoencoder whose latents Stable Diffusion works on (Rombach et al. 2022): diffusers' `AutoencoderKL`. It is
/// frozen, and its latents are means, not samples.
#[derive(Module, Debug)]
pub struct Autoencoder {
    encoder: Half,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: Half,
    #[module(skip)]
    config: AutoencoderConfig,
}

/// The encoder or the decoder.
#[derive(Module, Debug)]
struct Half {
    conv_in: Conv2d,
    /// The levels, in the order of use.
    levels: Vec<Level>,
    mid: Middle,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Module, Debug)]
struct Level {
    resnets: Vec<Residual>,
    /// The convolution to the next level; the decoder doubles the pixels before it.
    sampler: Option<Conv2d>,
}

/// The part between encoder or decoder and the latents.
#[derive(Module, Debug)]
struct Middle {
    first: Residual,
    attention: Option<PixelAttention>,
    second: Residual,
}

/// Attention of pixels to each other, with one head.
#[derive(Module, Debug)]
struct PixelAttention {
    norm: GroupNorm,
    attention: Attention,
}

impl PixelAttention {
    fn build(builder: &mut Builder<'_>, name: &str, width: usize, groups: usize) -> Result<Self, ModelError> {
        let sizes = AttentionSizes { width, seen: width, heads: 1, bias: true };
        Ok(Self {
            norm: GroupNorm::build(builder, &format!("{name}.group_norm"), width, groups, EPSILON)?,
            attention: Attention::build(builder, name, sizes)?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [m, c, h, w] = x.dims();
        let pixels = self.norm.forward(x.clone()).reshape([m, c, h * w]).swap_dims(1, 2);
        let mixed = self.attention.to_itself(pixels, Rows { samples: m, all: m }, &mut Tape::off());
        add(x, mixed.swap_dims(1, 2).reshape([m, c, h, w]))
    }
}

impl Middle {
    fn build(
        builder: &mut Builder<'_>,
        name: &str,
        width: usize,
        config: &AutoencoderConfig,
    ) -> Result<Self, ModelError> {
        let norms = (config.groups, EPSILON);
        let mut residual =
            |at: usize| Residual::build(builder, &format!("{name}.resnets.{at}"), [width, width], None, norms);
        let (first, second) = (residual(0)?, residual(1)?);
        let name = format!("{name}.attentions.0");
        let attention = config.attention.then(|| PixelAttention::build(builder, &name, width, config.groups));
        Ok(Self { first, attention: attention.transpose()?, second })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.first.forward(x, None);
        let x = match &self.attention {
            Some(attention) => attention.forward(x),
            None => x,
        };
        self.second.forward(x, None)
    }
}

impl Half {
    fn encoder(builder: &mut Builder<'_>, config: &AutoencoderConfig) -> Result<Self, ModelError> {
        let widths = &config.widths;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let conv_in = builder.convolution("encoder.conv_in", [config.channels, first, 3], 1)?;
        let mut levels = Vec::new();
        for (index, &width) in widths.iter().enumerate() {
            let name = format!("encoder.down_blocks.{index}");
            let before = widths[index.saturating_sub(1)];
            let resnets = resnets(builder, &name, [before, width], config.layers, config.groups)?;
            let sampler = (index + 1 < widths.len()).then(|| {
                let mut layer = builder.convolution(&format!("{name}.downsamplers.0.conv"), [width, width, 3], 2)?;
                // diffusers pads on the right and below only.
                layer.padding = PaddingConfig2d::Explicit(0, 0, 1, 1);
                Ok::<_, ModelError>(layer)
            });
            levels.push(Level { resnets, sampler: sampler.transpose()? });
        }
        let mid = Middle::build(builder, "encoder.mid_block", last, config)?;
        Self::finish(builder, "encoder", (conv_in, levels, mid), [last, 2 * config.latent_channels], config)
    }

    fn decoder(builder: &mut Builder<'_>, config: &AutoencoderConfig) -> Result<Self, ModelError> {
        let widths: Vec<usize> = config.widths.iter().rev().copied().collect();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let conv_in = builder.convolution("decoder.conv_in", [config.latent_channels, first, 3], 1)?;
        let mid = Middle::build(builder, "decoder.mid_block", first, config)?;
        let mut levels = Vec::new();
        for (index, &width) in widths.iter().enumerate() {
            let name = format!("decoder.up_blocks.{index}");
            let before = widths[index.saturating_sub(1)];
            let resnets = resnets(builder, &name, [before, width], config.layers + 1, config.groups)?;
            let sampler = (index + 1 < widths.len())
                .then(|| builder.convolution(&format!("{name}.upsamplers.0.conv"), [width, width, 3], 1));
            levels.push(Level { resnets, sampler: sampler.transpose()? });
        }
        Self::finish(builder, "decoder", (conv_in, levels, mid), [last, config.channels], config)
    }

    fn finish(
        builder: &mut Builder<'_>,
        name: &str,
        (conv_in, levels, mid): (Conv2d, Vec<Level>, Middle),
        [inputs, outputs]: [usize; 2],
        config: &AutoencoderConfig,
    ) -> Result<Self, ModelError> {
        let norm = format!("{name}.conv_norm_out");
        Ok(Self {
            conv_in,
            levels,
            mid,
            conv_norm_out: GroupNorm::build(builder, &norm, inputs, config.groups, EPSILON)?,
            conv_out: builder.convolution(&format!("{name}.conv_out"), [inputs, outputs, 3], 1)?,
        })
    }

    fn last(&self, x: Tensor<4>) -> Tensor<4> {
        convolution(&self.conv_out, silu(self.conv_norm_out.forward(x)))
    }
}

fn resnets(
    builder: &mut Builder<'_>,
    name: &str,
    [before, width]: [usize; 2],
    count: usize,
    groups: usize,
) -> Result<Vec<Residual>, ModelError> {
    let build = |layer| {
        let sizes = [if layer == 0 { before } else { width }, width];
        Residual::build(builder, &format!("{name}.resnets.{layer}"), sizes, None, (groups, EPSILON))
    };
    (0..count).map(build).collect()
}

impl Autoencoder {
    /// A model with the weights that `source` gives by name and shape, as for [`UNet`](crate::UNet).
    ///
    /// # Errors
    ///
    /// If the configuration is invalid or a weight has another shape.
    pub(crate) fn from_weights(
        config: AutoencoderConfig,
        device: &Device,
        source: &mut WeightSource<'_>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let mut builder = Builder::new(source, device);
        let builder = &mut builder;
        let latents = config.latent_channels;
        let encoder = Half::encoder(builder, &config)?;
        let decoder = Half::decoder(builder, &config)?;
        let mut quant = |wanted: bool, name: &str, channels: usize| {
            wanted.then(|| builder.convolution(name, [channels, channels, 1], 1)).transpose()
        };
        let quant_conv = quant(config.quant, "quant_conv", 2 * latents)?;
        let post_quant_conv = quant(config.post_quant, "post_quant_conv", latents)?;
        Ok(Self { encoder, quant_conv, post_quant_conv, decoder, config })
    }

    /// The sizes.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.decoder.conv_out.weight.val().device()
    }

    /// Latents of images: `(mean − shift) · scale`, as a denoiser sees them.
    ///
    /// # Shapes
    ///
    /// `images`: `[n, channels, h, w]` in `[−1, 1]`, with sides divisible by [`AutoencoderConfig::factor`]; output:
    /// `[n, latent_channels, h / factor, w / factor]`.
    ///
    /// # Panics
    ///
    /// If the shape does not fit.
    pub fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        let ([_, channels, h, w], factor) = (images.dims(), self.config.factor());
        let fits = channels == self.config.channels && h.is_multiple_of(factor) && w.is_multiple_of(factor);
        assert!(fits && h * w > 0, "Autoencoder::encode: images of {channels} channels, {h} × {w}");
        let mut x = convolution(&self.encoder.conv_in, images);
        for level in &self.encoder.levels {
            x = level.resnets.iter().fold(x, |x, residual| residual.forward(x, None));
            if let Some(sampler) = &level.sampler {
                x = convolution(sampler, x);
            }
        }
        x = self.encoder.last(self.encoder.mid.forward(x));
        if let Some(layer) = &self.quant_conv {
            x = convolution(layer, x);
        }
        let mean = x.narrow(1, 0, self.config.latent_channels);
        mean.sub_scalar(self.config.shift).mul_scalar(self.config.scale)
    }

    /// Images of latents, about in `[−1, 1]`.
    ///
    /// # Shapes
    ///
    /// `latents`: `[n, latent_channels, h, w]`; output: `[n, channels, h · factor, w · factor]`.
    ///
    /// # Panics
    ///
    /// If there are other channels.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let [_, channels, ..] = latents.dims();
        assert_eq!(channels, self.config.latent_channels, "Autoencoder::decode: channels");
        let mut x = latents.div_scalar(self.config.scale).add_scalar(self.config.shift);
        if let Some(layer) = &self.post_quant_conv {
            x = convolution(layer, x);
        }
        x = self.decoder.mid.forward(convolution(&self.decoder.conv_in, x));
        for level in &self.decoder.levels {
            x = level.resnets.iter().fold(x, |x, residual| residual.forward(x, None));
            if let Some(sampler) = &level.sampler {
                x = convolution(sampler, doubled(x));
            }
        }
        self.decoder.last(x)
    }
}
