use crate::ModelError;
use crate::error::check;

/// The sizes of a [`PixArt`](crate::PixArt), as in the `config.json` of a `PixArtTransformer2DModel`.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `channels` | 4 | channels of the image or latents (`in_channels`) | ≥ 1 |
/// | `out_channels` | 8 | channels of the output; those beyond `channels` are ignored | ≥ `channels` |
/// | `side` | 64 | side of the image or latents (`sample_size`) | a multiple of `patch` |
/// | `patch` | 2 | side of a patch (`patch_size`) | ≥ 1 |
/// | `layers` | 28 | blocks (`num_layers`) | ≥ 1 |
/// | `heads` | 16 | attention heads (`num_attention_heads`) | ≥ 1 |
/// | `head_size` | 72 | width of a head (`attention_head_dim`); the width is `heads · head_size` | ≥ 1, width a multiple of 4 |
/// | `text_width` | 4096 | width of the text states (`caption_channels`) | ≥ 1 |
/// | `attention_bias` | true | whether queries, keys and values have biases | |
/// | `norm_epsilon` | 1e-6 | added to the variance in the blocks (`norm_eps`) | finite, > 0 |
/// | `position_scale` | 1 | positions are divided by it (`interpolation_scale`) | finite, > 0 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixArtConfig {
    /// Channels of the image or latents.
    pub channels: usize,
    /// Channels of the output: PixArt's own models add a variance, which the loss ignores.
    pub out_channels: usize,
    /// The side of the image or latents.
    pub side: usize,
    /// The side of a patch.
    pub patch: usize,
    /// The number of blocks.
    pub layers: usize,
    /// The number of attention heads.
    pub heads: usize,
    /// The width of a head.
    pub head_size: usize,
    /// The width of the text states.
    pub text_width: usize,
    /// Whether queries, keys and values have biases.
    pub attention_bias: bool,
    /// The `ε` of the normalisations in the blocks.
    pub norm_epsilon: f64,
    /// What positions are divided by.
    pub position_scale: f64,
}

impl Default for PixArtConfig {
    fn default() -> Self {
        Self {
            channels: 4,
            out_channels: 8,
            side: 64,
            patch: 2,
            layers: 28,
            heads: 16,
            head_size: 72,
            text_width: 4096,
            attention_bias: true,
            norm_epsilon: 1e-6,
            position_scale: 1.0,
        }
    }
}

impl PixArtConfig {
    /// The width of the hidden states, `d`.
    pub fn width(&self) -> usize {
        self.heads.saturating_mul(self.head_size)
    }

    /// The number of patches.
    pub fn patches(&self) -> usize {
        (self.side / self.patch.max(1)).pow(2)
    }

    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        let sizes = [
            ("channels", self.channels),
            ("side", self.side),
            ("patch", self.patch),
            ("layers", self.layers),
            ("heads", self.heads),
            ("head_size", self.head_size),
            ("text_width", self.text_width),
        ];
        for (name, size) in sizes {
            check(size >= 1, name, size as f64, "at least 1")?;
        }
        check(self.out_channels >= self.channels, "out_channels", self.out_channels as f64, "at least `channels`")?;
        check(self.side.is_multiple_of(self.patch), "side", self.side as f64, "a multiple of `patch`")?;
        check(self.width().is_multiple_of(4), "head_size", self.head_size as f64, "a quarter of a whole width")?;
        let positive = |value: f64| value.is_finite() && value > 0.0;
        check(positive(self.norm_epsilon), "norm_epsilon", self.norm_epsilon, "positive and finite")?;
        check(positive(self.position_scale), "position_scale", self.position_scale, "positive and finite")
    }
}
