use crate::error::check;
use crate::{ModelError, RotaryConfig};

/// The attention layers that have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionBias {
    /// None: Llama, Mistral.
    None,
    /// Query, key and value: Qwen2.
    QueryKeyValue,
    /// All four, including the output: Llama with `attention_bias`.
    All,
}

/// Attention to the most recent tokens only: position `i` sees `i − size + 1 ..= i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    /// The number of tokens seen, including the position's own.
    pub size: usize,
    /// The first layer with a window, from 0; earlier layers see all past tokens.
    pub first_layer: usize,
}

/// The sizes of a [`crate::Decoder`].
///
/// | field | range |
/// |---|---|
/// | `vocabulary`, `max_tokens`, `width`, `layers`, `heads`, `feed_forward` | ≥ 1 |
/// | `key_value_heads` | ≥ 1, a divisor of `heads` |
/// | `head_size` | even, ≥ 2; usually `width / heads` |
/// | `norm_epsilon` | finite, > 0 |
/// | `sliding_window` | its size ≥ 1 |
/// | `rotary` | see [`RotaryConfig::validate`] |
///
/// A value outside its range is a [`ModelError::Setting`].
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The longest sequence.
    pub max_tokens: usize,
    /// Width of the hidden states, `d`.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; each serves `heads / key_value_heads` query heads.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Inner width of the feed-forward part.
    pub feed_forward: usize,
    /// The `ε` of the normalisations.
    pub norm_epsilon: f64,
    /// The rotary positions.
    pub rotary: RotaryConfig,
    /// The attention layers with a bias.
    pub attention_bias: AttentionBias,
    /// Whether the layers of the feed-forward part have a bias: Llama with `mlp_bias`.
    pub feed_forward_bias: bool,
    /// A window that limits attention: Mistral, and Qwen2 with `use_sliding_window`.
    pub sliding_window: Option<SlidingWindow>,
}

impl DecoderConfig {
    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        for (name, value) in [
            ("vocabulary", self.vocabulary),
            ("max_tokens", self.max_tokens),
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("key_value_heads", self.key_value_heads),
            ("feed_forward", self.feed_forward),
        ] {
            check(value >= 1, name, value as f64, "at least 1")?;
        }
        let groups = self.key_value_heads;
        check(self.heads.is_multiple_of(groups), "key_value_heads", groups as f64, "a divisor of `heads`")?;
        let epsilon = self.norm_epsilon;
        check(epsilon.is_finite() && epsilon > 0.0, "norm_epsilon", epsilon, "positive and finite")?;
        if let Some(window) = self.sliding_window {
            check(window.size >= 1, "sliding_window", window.size as f64, "at least 1")?;
        }
        self.rotary.validate(self.head_size)
    }

    /// The window of a layer, if it hides anything in a sequence of `t` tokens.
    pub(crate) fn window(&self, layer: usize, t: usize) -> Option<usize> {
        self.sliding_window.filter(|window| layer >= window.first_layer && window.size < t).map(|window| window.size)
    }
}
