use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::{Bool, Device, Int, Tensor};
use hyperinf_gradients::Tape;

use crate::error::check;
use crate::init::Init;
use crate::{LoraConfig, LoraLinear, ModelError, TokenBatch};

/// The sizes of an [`Encoder`]. Every one must be at least 1, and `heads` must divide `width`: otherwise
/// [`ModelError::Setting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderConfig {
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// Number of positions: the longest sequence.
    pub max_tokens: usize,
    /// Width of the hidden states, `d`.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Inner width of the feed-forward part.
    pub feed_forward: usize,
}

impl EncoderConfig {
    /// Fails if a size is 0 or `heads` does not divide `width`.
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
        check(self.width.is_multiple_of(self.heads), "heads", self.heads as f64, "a divisor of `width`")
    }
}

/// A linear layer of an encoder layer that can be adapted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraTarget {
    /// `q_proj`.
    Query,
    /// `k_proj`.
    Key,
    /// `v_proj`.
    Value,
    /// `out_proj`, after the heads.
    Output,
    /// `fc1`, into the feed-forward part.
    FeedForwardIn,
    /// `fc2`, out of the feed-forward part.
    FeedForwardOut,
}

impl LoraTarget {
    /// Query and value, the choice of the LoRA paper.
    pub const QUERY_VALUE: [Self; 2] = [Self::Query, Self::Value];
    /// Every linear layer.
    pub const ALL: [Self; 6] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::FeedForwardIn, Self::FeedForwardOut];

    /// The layer's name within its encoder layer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "out_proj",
            Self::FeedForwardIn => "fc1",
            Self::FeedForwardOut => "fc2",
        }
    }
}

/// A linear layer with or without an adapter.
// A model has a few dozen of these; Burn's `Module` is not implemented for boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Projection {
    /// The layer alone; it is not recorded.
    Plain(Linear),
    /// The frozen layer with its adapter; both factors are recorded.
    Lora(LoraLinear),
}

impl Projection {
    fn forward(&self, input: Tensor<3>, tape: &mut Tape) -> Tensor<3> {
        match self {
            Self::Plain(linear) => linear.forward(input),
            Self::Lora(lora) => lora.forward(input, tape),
        }
    }
}

/// A transformer encoder whose normalisation comes before each part (pre-LN), with learned positions.
///
/// Samples do not influence each other and padding has no influence: padded keys get attention weight 0, and
/// whatever follows an encoder must leave padded positions out (as masked pooling does).
#[derive(Module, Debug)]
pub struct Encoder {
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<EncoderLayer>,
    norm: LayerNorm,
    #[module(skip)]
    config: EncoderConfig,
}

#[derive(Module, Debug)]
struct EncoderLayer {
    attention_norm: LayerNorm,
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    out_proj: Projection,
    feed_forward_norm: LayerNorm,
    fc1: Projection,
    fc2: Projection,
    heads: usize,
}

impl Encoder {
    /// An untrained encoder; equal seeds give equal weights on every device.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn new(config: EncoderConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        config.validate()?;
        let mut init = Init::new(seed, device);
        let width = config.width;
        let norm = || LayerNormConfig::new(width).init(device);
        let plain = |init: &mut Init<'_>, d_in, d_out| Projection::Plain(init.linear(d_in, d_out));
        Ok(Self {
            token_embedding: Embedding { weight: init.uniform([config.vocabulary, width], 0.1) },
            position_embedding: Embedding { weight: init.uniform([config.max_tokens, width], 0.1) },
            layers: (0..config.layers)
                .map(|_| EncoderLayer {
                    attention_norm: norm(),
                    q_proj: plain(&mut init, width, width),
                    k_proj: plain(&mut init, width, width),
                    v_proj: plain(&mut init, width, width),
                    out_proj: plain(&mut init, width, width),
                    feed_forward_norm: norm(),
                    fc1: plain(&mut init, width, config.feed_forward),
                    fc2: plain(&mut init, config.feed_forward, width),
                    heads: config.heads,
                })
                .collect(),
            norm: norm(),
            config,
        })
    }

    /// Freezes every weight and adds an adapter to the chosen layers, named `layers.{i}.q_proj` and so on.
    ///
    /// A layer that has an adapter already keeps it, frozen.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid or `targets` is empty.
    pub fn with_lora(self, targets: &[LoraTarget], config: &LoraConfig, seed: u64) -> Result<Self, ModelError> {
        if targets.is_empty() {
            return Err(ModelError::Empty { what: "layers to adapt" });
        }
        let device = self.device();
        let mut init = Init::new(seed, &device);
        let mut encoder = self.no_grad();
        for (index, layer) in encoder.layers.iter_mut().enumerate() {
            for &target in targets {
                let slot = layer.projection(target);
                if let Projection::Plain(linear) = slot {
                    let name = format!("layers.{index}.{}", target.name());
                    *slot = Projection::Lora(LoraLinear::new(linear.clone(), name, config, init.seed())?);
                }
            }
        }
        Ok(encoder)
    }

    /// The hidden states `[n, t, d]` after the last normalisation; those of padding have no meaning.
    ///
    /// # Panics
    ///
    /// If the batch was made for an encoder with more tokens or positions.
    pub fn forward(&self, batch: &TokenBatch, tape: &mut Tape) -> Tensor<3> {
        let [_, t] = batch.tokens.dims();
        let positions = Tensor::<1, Int>::arange(0..t as i64, &batch.tokens.device()).unsqueeze();
        let mut hidden =
            self.token_embedding.forward(batch.tokens.clone()) + self.position_embedding.forward(positions);
        let padding = batch.mask.clone().bool_not();
        for layer in &self.layers {
            hidden = layer.forward(hidden, &padding, tape);
        }
        self.norm.forward(hidden)
    }

    /// The mean hidden state over each sample's own tokens, `[n, d]`.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn pooled(&self, batch: &TokenBatch, tape: &mut Tape) -> Tensor<2> {
        let hidden = self.forward(batch, tape);
        let [n, t, d] = hidden.dims();
        let mask = batch.mask.clone().float().cast(hidden.dtype());
        let lengths = mask.clone().sum_dim(1);
        // A product with zeros would let a non-finite padded state through; filling does not.
        let padding = batch.mask.clone().bool_not().unsqueeze_dim::<3>(2).expand([n, t, d]);
        hidden.mask_fill(padding, 0.0).sum_dim(1).squeeze_dim::<2>(1) / lengths
    }

    /// The encoder's sizes.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The device that holds the weights.
    pub fn device(&self) -> Device {
        self.token_embedding.weight.val().device()
    }

    /// The token embedding `[vocabulary, d]`.
    pub(crate) fn embedding(&self) -> &Param<Tensor<2>> {
        &self.token_embedding.weight
    }
}

impl EncoderLayer {
    fn forward(&self, hidden: Tensor<3>, padding: &Tensor<2, Bool>, tape: &mut Tape) -> Tensor<3> {
        let hidden = hidden.clone() + self.attention(self.attention_norm.forward(hidden), padding, tape);
        let inner = self.fc1.forward(self.feed_forward_norm.forward(hidden.clone()), tape);
        hidden + self.fc2.forward(gelu(inner), tape)
    }

    fn attention(&self, x: Tensor<3>, padding: &Tensor<2, Bool>, tape: &mut Tape) -> Tensor<3> {
        let [n, t, d] = x.dims();
        let (heads, size) = (self.heads, d / self.heads);
        let split = |x: Tensor<3>| x.reshape([n, t, heads, size]).swap_dims(1, 2);
        let query = split(self.q_proj.forward(x.clone(), tape)).mul_scalar(1.0 / (size as f64).sqrt());
        let key = split(self.k_proj.forward(x.clone(), tape));
        let value = split(self.v_proj.forward(x, tape));
        let scores = query.matmul(key.swap_dims(2, 3));
        let hidden_keys = padding.clone().reshape([n, 1, 1, t]).expand([n, heads, t, t]);
        let weights = softmax(scores.mask_fill(hidden_keys, f32::NEG_INFINITY), 3);
        let mixed = weights.matmul(value).swap_dims(1, 2).reshape([n, t, d]);
        self.out_proj.forward(mixed, tape)
    }

    fn projection(&mut self, target: LoraTarget) -> &mut Projection {
        match target {
            LoraTarget::Query => &mut self.q_proj,
            LoraTarget::Key => &mut self.k_proj,
            LoraTarget::Value => &mut self.v_proj,
            LoraTarget::Output => &mut self.out_proj,
            LoraTarget::FeedForwardIn => &mut self.fc1,
            LoraTarget::FeedForwardOut => &mut self.fc2,
        }
    }
}
