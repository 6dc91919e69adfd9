use burn::module::Module;
use burn::nn::{Embedding, LayerNorm};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::text_states::TextState;
use crate::arch::builder::{Builder, WeightSource};
use crate::arch::encoder_layer::EncoderLayer;
use crate::error::check;
use crate::{Activation, EncoderConfig, ModelError, NormPlacement};

/// The sizes of a [`ClipText`], as in the `config.json` of a `CLIPTextModel`.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `vocabulary` | 49408 | tokens (`vocab_size`) | ≥ 1 |
/// | `max_tokens` | 77 | the longest prompt (`max_position_embeddings`) | ≥ 1 |
/// | `width` | 768 | `d` (`hidden_size`) | ≥ 1 |
/// | `layers` | 12 | (`num_hidden_layers`) | ≥ 1 |
/// | `heads` | 12 | attention heads (`num_attention_heads`) | divides `width` |
/// | `feed_forward` | 3072 | inner width (`intermediate_size`) | ≥ 1 |
/// | `norm_epsilon` | 1e-5 | (`layer_norm_eps`) | finite, > 0 |
/// | `activation` | `QuickGelu` | (`hidden_act`) | |
///
/// The default is Stable Diffusion 1.5's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The longest prompt in tokens.
    pub max_tokens: usize,
    /// Width of the states.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Inner width of the feed-forward part.
    pub feed_forward: usize,
    /// The `ε` of the normalisations.
    pub norm_epsilon: f64,
    /// The activation of the feed-forward part.
    pub activation: Activation,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocabulary: 49408,
            max_tokens: 77,
            width: 768,
            layers: 12,
            heads: 12,
            feed_forward: 3072,
            norm_epsilon: 1e-5,
            activation: Activation::QuickGelu,
        }
    }
}

impl ClipTextConfig {
    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.layer().validate()
    }

    fn layer(&self) -> EncoderConfig {
        EncoderConfig {
            vocabulary: self.vocabulary,
            max_tokens: self.max_tokens,
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            feed_forward: self.feed_forward,
            norm: NormPlacement::Pre,
            norm_epsilon: self.norm_epsilon,
            activation: self.activation,
            ..EncoderConfig::default()
        }
    }
}

/// CLIP's text encoder (Radford et al. 2021), whose states Stable Diffusion 1.5 and 2 attend to: transformers'
/// `CLIPTextModel`. A token sees those before it; padding is a token like any other.
#[derive(Module, Debug)]
pub struct ClipText {
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<EncoderLayer>,
    final_norm: LayerNorm,
    #[module(skip)]
    config: ClipTextConfig,
}

impl ClipText {
    /// A model with the weights that `source` gives by name and shape; those of linear layers are
    /// `[d_input, d_output]`.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid or a weight has another shape.
    pub(crate) fn from_weights(
        config: ClipTextConfig,
        device: &Device,
        source: &mut WeightSource<'_>,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        let mut builder = Builder::new(source, device);
        let (width, layer) = (config.width, config.layer());
        let name = |part: &str| format!("text_model.{part}");
        Ok(Self {
            token_embedding: builder.embedding(&name("embeddings.token_embedding"), [config.vocabulary, width])?,
            position_embedding: builder
                .embedding(&name("embeddings.position_embedding"), [config.max_tokens, width])?,
            layers: (0..config.layers)
                .map(|index| EncoderLayer::build(&mut builder, &name(&format!("encoder.layers.{index}")), &layer))
                .collect::<Result<_, _>>()?,
            final_norm: builder.layer_norm(&name("final_layer_norm"), width, config.norm_epsilon)?,
            config,
        })
    }

    /// The sizes.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// The last hidden states after the final normalisation, `[n, t, d]`, of `n` prompts of `t` tokens each.
    ///
    /// # Errors
    ///
    /// If there are no prompts, their lengths differ or are not 1 to `max_tokens`, or a token is not in the vocabulary.
    pub fn forward(&self, prompts: &[&[u32]]) -> Result<Tensor<3>, ModelError> {
        let (n, limit, vocabulary) = (prompts.len(), self.config.max_tokens, self.config.vocabulary);
        let t = prompts.first().ok_or(ModelError::Empty { what: "prompts" })?.len();
        for (sample, prompt) in prompts.iter().enumerate() {
            if !(1..=limit).contains(&prompt.len()) {
                return Err(ModelError::Length { sample, tokens: prompt.len(), limit });
            }
            check(prompt.len() == t, "tokens", prompt.len() as f64, "the same for all prompts of a batch")?;
            if let Some(&token) = prompt.iter().find(|&&token| token as usize >= vocabulary) {
                return Err(ModelError::Token { sample, token, vocabulary });
            }
        }
        let device = self.token_embedding.weight.val().device();
        let ids: Vec<i64> = prompts.iter().flat_map(|prompt| prompt.iter().map(|&token| i64::from(token))).collect();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [n, t]), &device);
        let places = Tensor::<1, Int>::arange(0..t as i64, &device).unsqueeze();
        let mut x = self.token_embedding.forward(tokens) + self.position_embedding.forward(places);
        let later: Vec<bool> = (0..t * t).map(|at| at % t > at / t).collect();
        let later = Tensor::<4, Bool>::from_data(TensorData::new(later, [1, 1, t, t]), &device);
        for layer in &self.layers {
            x = layer.forward(x, &later, n, &mut Tape::off());
        }
        Ok(ops::layer_norm(&self.final_norm, self.config.norm_epsilon, x))
    }

    /// The states of each prompt, as [`forward`](Self::forward) computes them.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), or if the device fails.
    pub fn encode(&self, prompts: &[&[u32]]) -> Result<Vec<TextState>, ModelError> {
        let states = self.forward(prompts)?;
        let [_, t, width] = states.dims();
        let data = states.try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
        let values: Vec<f32> = data.iter().collect();
        Ok(values.chunks_exact(t * width).map(|values| TextState { width, values: values.to_vec() }).collect())
    }
}
