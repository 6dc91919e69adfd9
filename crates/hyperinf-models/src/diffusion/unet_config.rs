use crate::ModelError;
use crate::error::check;

/// One level of a U-Net, from the finest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UNetLevel {
    /// Channels (`block_out_channels`).
    pub channels: usize,
    /// Attention heads (`num_attention_heads`, or diffusers' misnamed `attention_head_dim`).
    pub heads: usize,
    /// Transformer blocks per attention (`transformer_layers_per_block`).
    pub depth: usize,
    /// Whether the level has attention on the way down (`CrossAttnDownBlock2D`).
    pub attends_down: bool,
    /// Whether it has attention on the way up (`CrossAttnUpBlock2D`).
    pub attends_up: bool,
}

/// The sizes of a [`UNet`](crate::UNet), as in the `config.json` of a `UNet2DConditionModel`. There is no default: files
/// say them all.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Channels of the latents (`in_channels`).
    pub channels: usize,
    /// Channels of the output (`out_channels`), at least those of the latents.
    pub out_channels: usize,
    /// The side of the latents (`sample_size`), divisible by 2 for each level but the last.
    pub side: usize,
    /// The levels, from the finest.
    pub levels: Vec<UNetLevel>,
    /// Residual blocks per level on the way down (`layers_per_block`); one more on the way up.
    pub layers: usize,
    /// The width of the text states (`cross_attention_dim`).
    pub text_width: usize,
    /// Groups of the group normalisations (`norm_num_groups`).
    pub groups: usize,
    /// The `ε` of the residual blocks' normalisations (`norm_eps`).
    pub norm_epsilon: f64,
    /// Whether the layers around transformer blocks are linear rather than convolutions of 1 × 1
    /// (`use_linear_projection`): the same computation, in files of other shapes.
    pub linear_projection: bool,
}

impl UNetConfig {
    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        let sizes = [
            ("channels", self.channels),
            ("side", self.side),
            ("layers", self.layers),
            ("text_width", self.text_width),
            ("groups", self.groups),
            ("levels", self.levels.len()),
        ];
        for (name, size) in sizes {
            check(size >= 1, name, size as f64, "at least 1")?;
        }
        check(self.out_channels >= self.channels, "out_channels", self.out_channels as f64, "at least `channels`")?;
        let halvings = self.levels.len() - 1;
        let whole = halvings < 32 && self.side.is_multiple_of(1 << halvings);
        check(whole, "side", self.side as f64, "divisible by 2 for each level but the last")?;
        for level in &self.levels {
            let channels = level.channels as f64;
            check(
                level.channels >= 1 && level.channels.is_multiple_of(self.groups),
                "channels",
                channels,
                "a multiple of `groups`",
            )?;
            check(level.depth >= 1, "depth", level.depth as f64, "at least 1")?;
            let heads = level.heads;
            check(
                heads >= 1 && level.channels.is_multiple_of(heads),
                "heads",
                heads as f64,
                "a divisor of `channels`",
            )?;
        }
        let epsilon = self.norm_epsilon;
        check(epsilon.is_finite() && epsilon > 0.0, "norm_epsilon", epsilon, "positive and finite")
    }
}
