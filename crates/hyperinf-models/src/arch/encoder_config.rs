use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use hyperinf_ops as ops;

use crate::ModelError;
use crate::error::check;

/// The sizes and the variant of an [`Encoder`](crate::Encoder).
///
/// The default is BERT (base, uncased). Dropout has no field: the probabilities in a published configuration are never
/// applied, not even in training; adapters have their own dropout.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `family` | `Bert` | names of the layers | |
/// | `vocabulary` | 30522 | tokens | ≥ 1 |
/// | `max_tokens` | 512 | the longest sequence | ≥ 1 |
/// | `first_position` | 0 | position of the first token | |
/// | `segments` | 2 | segment types; 0 for no segment embedding | |
/// | `width` | 768 | `d` | ≥ 1 |
/// | `layers` | 12 | | ≥ 1 |
/// | `heads` | 12 | attention heads | divides `width` |
/// | `feed_forward` | 3072 | inner width of the feed-forward part | ≥ 1 |
/// | `norm` | `Post` | place of the normalisations | |
/// | `norm_epsilon` | 1e-12 | added to the variance by every normalisation | finite, > 0 |
/// | `activation` | `Gelu` | activation of the feed-forward part | |
/// | `pooler` | true | whether there is a pooling layer on the first token | |
///
/// A value outside its range is a [`ModelError::Setting`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncoderConfig {
    /// The family, which decides the names of the layers.
    pub family: EncoderFamily,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The longest sequence. The position table has `first_position + max_tokens` rows.
    pub max_tokens: usize,
    /// The position of the first token: 0 for BERT, the padding token's id plus 1 (so 2) for RoBERTa.
    ///
    /// A padding token inside a text counts as any other token. Hugging Face's RoBERTa skips it, so later positions
    /// differ there.
    pub first_position: usize,
    /// Number of segment types ("token types" in published configurations); 0 for no segment embedding.
    pub segments: usize,
    /// Width of the hidden states, `d`.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Inner width of the feed-forward part.
    pub feed_forward: usize,
    /// The place of the normalisations.
    pub norm: NormPlacement,
    /// The `ε` that every normalisation adds to the variance.
    pub norm_epsilon: f64,
    /// The activation of the feed-forward part.
    pub activation: Activation,
    /// Whether there is a pooler: a linear layer and tanh on the first token's last hidden state.
    pub pooler: bool,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self {
            family: EncoderFamily::Bert,
            vocabulary: 30522,
            max_tokens: 512,
            first_position: 0,
            segments: 2,
            width: 768,
            layers: 12,
            heads: 12,
            feed_forward: 3072,
            norm: NormPlacement::Post,
            norm_epsilon: 1e-12,
            activation: Activation::Gelu,
            pooler: true,
        }
    }
}

impl EncoderConfig {
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
            ("feed_forward", self.feed_forward),
        ] {
            check(value >= 1, name, value as f64, "at least 1")?;
        }
        check(self.width.is_multiple_of(self.heads), "heads", self.heads as f64, "a divisor of `width`")?;
        let epsilon = self.norm_epsilon;
        check(epsilon.is_finite() && epsilon > 0.0, "norm_epsilon", epsilon, "positive and finite")
    }
}

/// A family of encoders, which decides the names of their layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderFamily {
    /// `bert.…`: BERT and MiniLM.
    Bert,
    /// `roberta.…`: RoBERTa and XLM-RoBERTa.
    Roberta,
}

impl EncoderFamily {
    /// The name of the encoder within a classifier: `bert` or `roberta`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
        }
    }
}

/// The place of an encoder's normalisations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before each part, `x + f(norm(x))`, and once after the last layer.
    Pre,
    /// After each part, `norm(x + f(x))`, and once before the first layer, as in BERT (Vaswani et al. 2017).
    Post,
}

/// The activation of the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)` with the exact normal distribution function.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x / (1 + e^(−1.702 x))`: CLIP.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// The names that [`named`](Self::named) accepts.
    pub const NAMES: [&'static str; 6] = ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "relu"];

    /// The activation with this name in the `hidden_act` of published configurations; `None` for other names.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Some(Self::GeluTanh),
            "quick_gelu" => Some(Self::QuickGelu),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    /// The activation of every entry.
    pub(crate) fn apply(self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Gelu => ops::gelu(x),
            Self::GeluTanh => ops::gelu_tanh(x),
            Self::QuickGelu => ops::swish(x, 1.702),
            Self::Relu => relu(x),
        }
    }
}
