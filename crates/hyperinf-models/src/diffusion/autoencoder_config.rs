use crate::ModelError;
use crate::error::check;

/// The sizes of an [`Autoencoder`](crate::Autoencoder), as in the `config.json` of an `AutoencoderKL`.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `channels` | 3 | channels of an image (`in_channels`) | ≥ 1 |
/// | `latent_channels` | 4 | channels of the latents | ≥ 1 |
/// | `widths` | 128, 256, 512, 512 | channels of each level from the finest (`block_out_channels`) | multiples of `groups` |
/// | `layers` | 2 | residual blocks per level (`layers_per_block`), one more in the decoder | ≥ 1 |
/// | `groups` | 32 | groups of the normalisations (`norm_num_groups`) | ≥ 1 |
/// | `scale` | 0.18215 | factor of the latents (`scaling_factor`) | finite, > 0 |
/// | `shift` | 0 | subtracted from the latents before (`shift_factor`) | finite |
/// | `attention` | true | whether the middle has attention (`mid_block_add_attention`) | |
/// | `quant` | true | whether the encoder ends in `quant_conv` (`use_quant_conv`) | |
/// | `post_quant` | true | whether the decoder begins with `post_quant_conv` (`use_post_quant_conv`) | |
///
/// The default is Stable Diffusion 1.5's.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels of an image.
    pub channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level, from the finest.
    pub widths: Vec<usize>,
    /// Residual blocks per level of the encoder.
    pub layers: usize,
    /// Groups of the normalisations.
    pub groups: usize,
    /// What latents are multiplied by.
    pub scale: f64,
    /// What is subtracted from latents before that.
    pub shift: f64,
    /// Whether the middle has attention.
    pub attention: bool,
    /// Whether the encoder ends in a convolution of 1 × 1.
    pub quant: bool,
    /// Whether the decoder begins with one.
    pub post_quant: bool,
}

impl Default for AutoencoderConfig {
    fn default() -> Self {
        Self {
            channels: 3,
            latent_channels: 4,
            widths: vec![128, 256, 512, 512],
            layers: 2,
            groups: 32,
            scale: 0.18215,
            shift: 0.0,
            attention: true,
            quant: true,
            post_quant: true,
        }
    }
}

impl AutoencoderConfig {
    /// Pixels of an image per value of the latents, along a side.
    pub fn factor(&self) -> usize {
        1 << self.widths.len().saturating_sub(1)
    }

    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        let sizes = [
            ("channels", self.channels),
            ("latent_channels", self.latent_channels),
            ("layers", self.layers),
            ("groups", self.groups),
        ];
        for (name, size) in sizes {
            check(size >= 1, name, size as f64, "at least 1")?;
        }
        let levels = self.widths.len();
        check((1..=16).contains(&levels), "widths", levels as f64, "1 to 16 levels")?;
        for &width in &self.widths {
            check(width >= 1 && width.is_multiple_of(self.groups), "widths", width as f64, "a multiple of `groups`")?;
        }
        check(self.scale.is_finite() && self.scale > 0.0, "scale", self.scale, "positive and finite")?;
        check(self.shift.is_finite(), "shift", self.shift, "finite")
    }
}
