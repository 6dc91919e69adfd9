use burn::module::Module;
use burn::nn::Embedding;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use hyperinf_gradients::Tape;

use crate::rotary::Rotary;
use crate::{CheckpointNames, ModelError, Projection};

pub(crate) mod build;
mod config;
mod layer;
pub(crate) mod layout;

use build::Builder;
pub use config::{AttentionBias, DecoderConfig, SlidingWindow};
use layer::{DecoderLayer, RmsNorm};

/// A transformer decoder of the Llama family (Touvron et al. 2023): Llama 2 and 3, SmolLM2, Qwen2, Mistral.
///
/// Root-mean-square normalisation before each part, rotary positions, grouped-query attention to a position's own
/// past, a SwiGLU feed-forward part. Positions count from 0 in every sample. Padding goes to the right, where no
/// token can see it.
#[derive(Module, Debug)]
pub struct Decoder {
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    config: DecoderConfig,
}

impl Decoder {
    /// An untrained decoder; equal seeds give equal weights on every device.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn new(config: DecoderConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        Self::from_weights(config, device, build::untrained(seed))
    }

    /// A decoder with given weights, asked for one after another.
    ///
    /// `weights(name, shape)` gives the weight of a name in Hugging Face's checkpoints without the leading `model.`
    /// (`layers.0.self_attn.q_proj.weight`) in our shape: linear weights are `[d_input, d_output]`.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid, `weights` fails or a shape differs.
    pub fn from_weights(
        config: DecoderConfig,
        device: &Device,
        mut weights: impl FnMut(&str, &[usize]) -> Result<TensorData, ModelError>,
    ) -> Result<Self, ModelError> {
        Self::build(&mut Builder::new(&mut weights, device), "", config)
    }

    pub(crate) fn build(builder: &mut Builder<'_>, prefix: &str, config: DecoderConfig) -> Result<Self, ModelError> {
        config.validate()?;
        Ok(Self {
            embed_tokens: builder.embedding(&format!("{prefix}embed_tokens"), [config.vocabulary, config.width])?,
            layers: (0..config.layers)
                .map(|index| DecoderLayer::build(builder, &format!("{prefix}layers.{index}"), &config))
                .collect::<Result<_, _>>()?,
            norm: RmsNorm::build(builder, &format!("{prefix}norm"), config.width)?,
            config,
        })
    }

    /// The hidden states `[n, t, d]` of tokens `[n, t]` after the last normalisation.
    ///
    /// Those of padding on the right have no meaning, but are finite, and no other state depends on them.
    ///
    /// # Panics
    ///
    /// If a token is not in the vocabulary.
    pub fn forward(&self, tokens: Tensor<2, Int>, tape: &mut Tape) -> Tensor<3> {
        let [_, t] = tokens.dims();
        let device = tokens.device();
        let mut x = self.embed_tokens.forward(tokens);
        let rotary = Rotary::new(&self.config.rotary, self.config.head_size, t, &device, x.dtype());
        let full = hidden_keys(t, None, &device);
        let mut banded = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let hidden = match self.config.window(index, t) {
                None => full.clone(),
                Some(window) => banded.get_or_insert_with(|| hidden_keys(t, Some(window), &device)).clone(),
            };
            x = layer.forward(x, &self.config, &rotary, hidden, tape);
        }
        self.norm.forward(x, self.config.norm_epsilon)
    }

    /// The decoder's sizes.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The device that holds the weights.
    pub fn device(&self) -> Device {
        self.embed_tokens.weight.val().device()
    }

    /// The token embedding `[vocabulary, d]`.
    pub(crate) fn embedding(&self) -> Tensor<2> {
        self.embed_tokens.weight.val()
    }

    /// Calls `visit` with every linear layer and its name below `prefix`, in the order of their use.
    pub(crate) fn visit_projections(&mut self, prefix: &str, visit: &mut dyn FnMut(&str, &mut Projection)) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (name, projection) in layer.projections() {
                visit(&format!("{prefix}layers.{index}.{name}"), projection);
            }
        }
    }
}

/// True where a key is not seen: after the query, or before its window; `[1, 1, t, t]`.
fn hidden_keys(t: usize, window: Option<usize>, device: &Device) -> Tensor<4, Bool> {
    let seen = |query: usize, key: usize| key <= query && window.is_none_or(|window| key + window > query);
    let values: Vec<bool> = (0..t * t).map(|place| !seen(place / t, place % t)).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, t, t]), device)
}

/// As saved from the bare decoder, without a head: `layers.0.self_attn.q_proj.weight`.
impl CheckpointNames for Decoder {
    fn checkpoint_name(&self, path: &str) -> String {
        path.replace(".base.", ".")
    }
}
