use burn::module::Module;
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::{DType, Device, Tensor};
use hyperinf_gradients::Tape;
use hyperinf_ops::convolution;

use super::attention::{Rows, Text, silu};
use super::embedding;
use super::text_states::TextStates;
use super::unet_config::UNetConfig;
use super::unet_parts::{GroupNorm, PixelTransformer, Residual};
use crate::arch::builder::{Builder, WeightSource, untrained};
use crate::{Adaptable, AdaptableLinear, CheckpointNames, ModelError};

/// The denoiser of Stable Diffusion 1.5 and 2 (Rombach et al. 2022): diffusers' `UNet2DConditionModel` with attention to
/// text states alone. SDXL's conditions on sizes are not supported.
#[derive(Module, Debug)]
pub struct UNet {
    conv_in: Conv2d,
    time_1: Linear,
    time_2: Linear,
    down_blocks: Vec<Level>,
    mid_block: Level,
    up_blocks: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    config: UNetConfig,
}

/// The blocks of a level on one way.
#[derive(Module, Debug)]
struct Level {
    resnets: Vec<Residual>,
    attentions: Vec<PixelTransformer>,
    /// The convolution to the next level, after the pixels were doubled on the way up.
    sampler: Option<Conv2d>,
}

impl UNet {
    /// An untrained model; equal seeds give equal weights on every device.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn new(config: UNetConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        Self::from_weights(config, device, &mut untrained(seed))
    }

    /// A model with the weights that `source` gives by name and shape; those of linear layers are
    /// `[d_input, d_output]`, those of convolutions `[d_output, d_input, side, side]`.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid or a weight has another shape.
    pub(crate) fn from_weights(
        config: UNetConfig,
        device: &Device,
        source: &mut WeightSource<'_>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let mut builder = Builder::new(source, device);
        let builder = &mut builder;
        let channels: Vec<usize> = config.levels.iter().map(|level| level.channels).collect();
        let (first, last, time) = (channels[0], channels.len() - 1, 4 * channels[0]);
        let norms = (config.groups, config.norm_epsilon);
        let conv_in = builder.convolution("conv_in", [config.channels, first, 3], 1)?;
        let time_1 = builder.linear("time_embedding.linear_1", first, time, true)?;
        let time_2 = builder.linear("time_embedding.linear_2", time, time, true)?;

        let mut down_blocks = Vec::new();
        for (index, level) in config.levels.iter().enumerate() {
            let name = format!("down_blocks.{index}");
            let inputs = |layer| if layer == 0 { channels[index.saturating_sub(1)] } else { level.channels };
            let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
            for layer in 0..config.layers {
                let sizes = [inputs(layer), level.channels];
                resnets.push(Residual::build(builder, &format!("{name}.resnets.{layer}"), sizes, Some(time), norms)?);
                if level.attends_down {
                    let name = format!("{name}.attentions.{layer}");
                    attentions.push(PixelTransformer::build(builder, &name, level, &config)?);
                }
            }
            let sides = [level.channels, level.channels, 3];
            let name = format!("{name}.downsamplers.0.conv");
            let sampler = if index < last { Some(builder.convolution(&name, sides, 2)?) } else { None };
            down_blocks.push(Level { resnets, attentions, sampler });
        }
        let coarsest = &config.levels[last];
        let sizes = [coarsest.channels, coarsest.channels];
        let mid_block = Level {
            resnets: vec![
                Residual::build(builder, "mid_block.resnets.0", sizes, Some(time), norms)?,
                Residual::build(builder, "mid_block.resnets.1", sizes, Some(time), norms)?,
            ],
            attentions: vec![PixelTransformer::build(builder, "mid_block.attentions.0", coarsest, &config)?],
            sampler: None,
        };
        let mut up_blocks = Vec::new();
        for (index, level) in config.levels.iter().rev().enumerate() {
            let name = format!("up_blocks.{index}");
            let place = last - index;
            let (before, skipped) = (channels[(place + 1).min(last)], channels[place.saturating_sub(1)]);
            let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
            for layer in 0..=config.layers {
                let own = if layer == 0 { before } else { level.channels };
                let skip = if layer == config.layers { skipped } else { level.channels };
                let sizes = [own + skip, level.channels];
                resnets.push(Residual::build(builder, &format!("{name}.resnets.{layer}"), sizes, Some(time), norms)?);
                if level.attends_up {
                    let name = format!("{name}.attentions.{layer}");
                    attentions.push(PixelTransformer::build(builder, &name, level, &config)?);
                }
            }
            let sides = [level.channels, level.channels, 3];
            let name = format!("{name}.upsamplers.0.conv");
            let sampler = if index < last { Some(builder.convolution(&name, sides, 1)?) } else { None };
            up_blocks.push(Level { resnets, attentions, sampler });
        }
        Ok(Self {
            conv_in,
            time_1,
            time_2,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::build(builder, "conv_norm_out", first, config.groups, config.norm_epsilon)?,
            conv_out: builder.convolution("conv_out", [first, config.out_channels, 3], 1)?,
            config,
        })
    }

    /// The sizes.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.time_1.weight.val().device()
    }

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        self.time_1.weight.val().dtype()
    }

    /// As [`Denoiser::forward`](crate::Denoiser::forward), with `apart` as for [`PixArt`](crate::PixArt).
    pub(super) fn forward_with(
        &self,
        x: Tensor<4>,
        timesteps: &[f64],
        text: &TextStates,
        apart: bool,
        tape: &mut Tape,
    ) -> Tensor<4> {
        let ([all, found, height, width], [samples, ..]) = (x.dims(), text.states.dims());
        let (channels, strides) = (self.config.channels, 1 << (self.config.levels.len() - 1));
        let fits = found == channels && [height, width].iter().all(|side| *side > 0 && side % strides == 0);
        assert!(fits, "Denoiser::forward: the image's shape, {found} × {height} × {width}");
        assert!(
            all == timesteps.len() && all.is_multiple_of(samples),
            "Denoiser::forward: {all} rows, {samples} prompts"
        );
        let rows = Rows { samples, all };
        let mut text = Text { states: text.states.clone(), hidden: text.hidden.clone() };
        if apart {
            text = text.repeated(rows);
        }
        let first = self.config.levels[0].channels;
        let time = embedding::timesteps(timesteps, first, &x.device().without_autodiff(), x.dtype());
        let time = silu(self.time_2.forward(silu(self.time_1.forward(time))));

        let mut x = convolution(&self.conv_in, x);
        let mut skips = vec![x.clone()];
        for level in &self.down_blocks {
            for (index, residual) in level.resnets.iter().enumerate() {
                x = residual.forward(x, Some(&time));
                if let Some(attention) = level.attentions.get(index) {
                    x = attention.forward(x, &text, rows, tape);
                }
                skips.push(x.clone());
            }
            if let Some(sampler) = &level.sampler {
                x = convolution(sampler, x);
                skips.push(x.clone());
            }
        }
        x = self.mid_block.resnets[0].forward(x, Some(&time));
        x = self.mid_block.attentions[0].forward(x, &text, rows, tape);
        x = self.mid_block.resnets[1].forward(x, Some(&time));
        for level in &self.up_blocks {
            for (index, residual) in level.resnets.iter().enumerate() {
                let skip = skips.pop().expect("a skip for every residual block on the way up");
                x = residual.forward(Tensor::cat(vec![x, skip], 1), Some(&time));
                if let Some(attention) = level.attentions.get(index) {
                    x = attention.forward(x, &text, rows, tape);
                }
            }
            if let Some(sampler) = &level.sampler {
                x = convolution(sampler, doubled(x));
            }
        }
        convolution(&self.conv_out, silu(self.conv_norm_out.forward(x))).narrow(1, 0, channels)
    }
}

/// Every pixel four times.
pub(super) fn doubled(x: Tensor<4>) -> Tensor<4> {
    let [m, c, h, w] = x.dims();
    let x = x.reshape([m, c, h, 1, w, 1]).expand([m, c, h, 2, w, 2]);
    x.reshape([m, c, 2 * h, 2 * w])
}

/// Layers have the names of diffusers and PEFT: `base_model.model.down_blocks.0.attentions.0.….attn1.to_q`.
impl Adaptable for UNet {
    fn generates_images(&self) -> bool {
        true
    }

    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        let mut level = |name: String, level: &mut Level| {
            for (index, attention) in level.attentions.iter_mut().enumerate() {
                attention.visit(&format!("base_model.model.{name}.attentions.{index}"), visit);
            }
        };
        for (index, block) in self.down_blocks.iter_mut().enumerate() {
            level(format!("down_blocks.{index}"), block);
        }
        level("mid_block".to_owned(), &mut self.mid_block);
        for (index, block) in self.up_blocks.iter_mut().enumerate() {
            level(format!("up_blocks.{index}"), block);
        }
    }
}

impl CheckpointNames for UNet {
    fn checkpoint_name(&self, path: &str) -> String {
        let sampler = if path.starts_with("down_blocks.") { "downsamplers.0.conv" } else { "upsamplers.0.conv" };
        let pairs = [
            (".base.", "."),
            (".lora_a.", ".lora_A."),
            (".lora_b.", ".lora_B."),
            (".gamma", ".weight"),
            (".beta", ".bias"),
            (".to_out.", ".to_out.0."),
            (".ff_in.", ".ff.net.0.proj."),
            (".ff_out.", ".ff.net.2."),
            (".sampler", &format!(".{sampler}")),
            ("time_1.", "time_embedding.linear_1."),
            ("time_2.", "time_embedding.linear_2."),
        ];
        pairs.iter().fold(path.to_owned(), |path, (own, published)| path.replace(own, published))
    }
}
