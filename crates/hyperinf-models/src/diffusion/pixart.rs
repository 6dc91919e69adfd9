use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::attention::{Rows, Text, silu};
use super::config::PixArtConfig;
use super::embedding::{self, TIMESTEP_CHANNELS};
use super::noise::normals;
use super::pixart_block::PixArtBlock;
use super::text_states::TextStates;
use crate::arch::builder::{Builder, WeightSource};
use crate::{Adaptable, AdaptableLinear, CheckpointNames, ModelError};

/// The denoiser of PixArt-α and PixArt-Σ, a transformer on patches (Peebles & Xie 2023; Chen et al. 2023):
/// diffusers' `PixArtTransformer2DModel`.
///
/// The conditions on resolution and aspect ratio of the models for 1024 pixels are not supported.
#[derive(Module, Debug)]
pub struct PixArt {
    patch_proj: Linear,
    timestep_1: Linear,
    timestep_2: Linear,
    adaln: Linear,
    caption_1: Linear,
    caption_2: Linear,
    transformer_blocks: Vec<PixArtBlock>,
    /// `[2, d]`: the last shift and scale.
    scale_shift_table: Param<Tensor<2>>,
    proj_out: Linear,
    #[module(skip)]
    config: PixArtConfig,
}

/// The fields that have other names in a checkpoint.
const PARTS: [(&str, &str); 6] = [
    ("patch_proj", "pos_embed.proj"),
    ("timestep_1", "adaln_single.emb.timestep_embedder.linear_1"),
    ("timestep_2", "adaln_single.emb.timestep_embedder.linear_2"),
    ("adaln", "adaln_single.linear"),
    ("caption_1", "caption_projection.linear_1"),
    ("caption_2", "caption_projection.linear_2"),
];

impl PixArt {
    /// An untrained model; equal seeds give equal weights on every device. The output layer and the gates start at
    /// zero, so that the first prediction is zero (Peebles & Xie 2023, section 3.2).
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn new(config: PixArtConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        Self::from_weights(config, device, &mut untrained(seed))
    }

    /// A model with the weights that `source` gives by name and shape; those of linear layers are
    /// `[d_input, d_output]`, that of the patches is `[d, channels, patch, patch]`.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid or a weight has another shape.
    pub(crate) fn from_weights(
        config: PixArtConfig,
        device: &Device,
        source: &mut WeightSource<'_>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let (width, values) = (config.width(), config.patch * config.patch);
        let mut builder = Builder::new(source, device);
        let builder = &mut builder;
        Ok(Self {
            patch_proj: builder.patches("pos_embed.proj", [width, config.channels, config.patch])?,
            timestep_1: builder.linear(PARTS[1].1, TIMESTEP_CHANNELS, width, true)?,
            timestep_2: builder.linear(PARTS[2].1, width, width, true)?,
            adaln: builder.linear(PARTS[3].1, width, 6 * width, true)?,
            caption_1: builder.linear(PARTS[4].1, config.text_width, width, true)?,
            caption_2: builder.linear(PARTS[5].1, width, width, true)?,
            transformer_blocks: (0..config.layers)
                .map(|index| PixArtBlock::build(builder, &format!("transformer_blocks.{index}"), &config))
                .collect::<Result<_, _>>()?,
            scale_shift_table: builder.table("scale_shift_table", [2, width])?,
            proj_out: builder.linear("proj_out", width, values * config.out_channels, true)?,
            config,
        })
    }

    /// The sizes.
    pub fn config(&self) -> &PixArtConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.proj_out.weight.val().device()
    }

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        self.proj_out.weight.val().dtype()
    }

    /// As [`Denoiser::forward`](crate::Denoiser::forward); with `apart`, the text goes through its layers once per row
    /// rather than once per sample.
    pub(super) fn forward_with(
        &self,
        x: Tensor<4>,
        timesteps: &[f64],
        text: &TextStates,
        apart: bool,
        tape: &mut Tape,
    ) -> Tensor<4> {
        let PixArtConfig { channels, out_channels, side, patch, .. } = self.config;
        let [all, found, height, width] = x.dims();
        let [samples, ..] = text.states.dims();
        assert_eq!([found, height, width], [channels, side, side], "Denoiser::forward: the image's shape");
        assert!(
            all == timesteps.len() && all.is_multiple_of(samples),
            "Denoiser::forward: {all} rows, {samples} prompts"
        );
        let (device, dtype, d, places) = (x.device(), x.dtype(), self.config.width(), side / patch);
        let rows = Rows { samples, all };

        let x = x.reshape([all * channels, places, patch, places, patch]).permute([0, 1, 3, 2, 4]);
        let x = x.reshape([all, channels, places * places, patch * patch]).swap_dims(1, 2);
        let x = x.reshape([all, places * places, channels * patch * patch]);
        let positions =
            embedding::positions(places, d, self.config.position_scale, &device.clone().without_autodiff(), dtype);
        let mut x = ops::linear(&self.patch_proj, x) + positions;

        let time = embedding::timesteps(timesteps, TIMESTEP_CHANNELS, &device.without_autodiff(), dtype);
        let time = silu(self.timestep_1.forward(time));
        let time = self.timestep_2.forward(time);
        let blocks = self.adaln.forward(silu(time.clone())).reshape([all, 6, d]);

        let states = ops::gelu_tanh(ops::linear(&self.caption_1, text.states.clone()));
        let mut text = Text { states: ops::linear(&self.caption_2, states), hidden: text.hidden.clone() };
        if apart {
            text = text.repeated(rows);
        }
        for block in &self.transformer_blocks {
            x = block.forward(x, blocks.clone(), &text, &self.config, rows, tape);
        }

        let parts = time.reshape([all, 1, d]) + self.scale_shift_table.val().unsqueeze();
        let x = ops::standardize(x, 1e-6) * (parts.clone().narrow(1, 1, 1) + 1.0) + parts.narrow(1, 0, 1);
        let y = ops::linear(&self.proj_out, x).reshape([all * places, places, patch, patch * out_channels]);
        let y = y.swap_dims(1, 2).reshape([all, side, side, out_channels]);
        y.permute([0, 3, 1, 2]).narrow(1, 0, channels)
    }
}

/// Layers have the names of diffusers and PEFT: `base_model.model.transformer_blocks.0.attn1.to_q`.
impl Adaptable for PixArt {
    fn generates_images(&self) -> bool {
        true
    }

    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        for (index, block) in self.transformer_blocks.iter_mut().enumerate() {
            block.visit(&format!("base_model.model.transformer_blocks.{index}"), visit);
        }
    }
}

impl CheckpointNames for PixArt {
    fn checkpoint_name(&self, path: &str) -> String {
        let path = path.replace(".base.", ".").replace(".lora_a.", ".lora_A.").replace(".lora_b.", ".lora_B.");
        if let Some((part, rest)) = path.split_once('.')
            && let Some((_, published)) = PARTS.iter().find(|(own, _)| *own == part)
        {
            return format!("{published}.{rest}");
        }
        path.replace(".to_out.", ".to_out.0.").replace(".ff_in.", ".ff.net.0.proj.").replace(".ff_out.", ".ff.net.2.")
    }
}

/// Weights uniform in `±1/√d_input`, biases and the output layer zero; the tables' gates are zero, too, so that every
/// block starts as the identity but for the text.
fn untrained(seed: u64) -> impl FnMut(&str, &[usize]) -> Result<TensorData, ModelError> {
    let mut rng = StdRng::seed_from_u64(seed);
    move |name, shape| {
        let count: usize = shape.iter().product();
        let zero = name.ends_with(".bias")
            || name.starts_with("proj_out.")
            || name.ends_with("scale_shift_table")
            || name.ends_with("attn2.to_out.0.weight")
            || name.starts_with("adaln_single.linear.");
        if zero {
            return Ok(TensorData::new(vec![0.0_f32; count], shape.to_vec()));
        }
        let inputs = if shape.len() == 2 { shape[0] } else { shape[1..].iter().product() };
        // As wide as the uniform numbers of other layers: variance 1 / (3 d_input).
        let scale = 1.0 / (3.0 * inputs as f32).sqrt();
        let values: Vec<f32> = normals(&mut rng, count).into_iter().map(|value| scale * value).collect();
        Ok(TensorData::new(values, shape.to_vec()))
    }
}
