use burn::module::Module;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use hyperinf_gradients::Tape;

use super::builder::Builder;
use super::decoder_layer::{DecoderLayer, RmsNorm};
use super::rotary::Rotary;
use crate::{AdaptableEmbedding, AdaptableLinear, DecoderConfig, ModelError};

/// A transformer decoder of the Llama family (Touvron et al. 2023): Llama 2 and 3, SmolLM2, Qwen2, Mistral.
///
/// Root-mean-square normalisation before each part, rotary positions, causal grouped-query attention and a SwiGLU
/// feed-forward part. Positions count from 0 in every sample. Padding goes to the right, where causal attention does
/// not see it.
#[derive(Module, Debug)]
pub struct Decoder {
    embed_tokens: AdaptableEmbedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    #[module(skip)]
    config: DecoderConfig,
}

impl Decoder {
    pub(crate) fn build(builder: &mut Builder<'_>, prefix: &str, config: DecoderConfig) -> Result<Self, ModelError> {
        config.validate()?;
        Ok(Self {
            embed_tokens: AdaptableEmbedding::Plain(
                builder.embedding(&format!("{prefix}embed_tokens"), [config.vocabulary, config.width])?,
            ),
            layers: (0..config.layers)
                .map(|index| DecoderLayer::build(builder, &format!("{prefix}layers.{index}"), &config))
                .collect::<Result<_, _>>()?,
            norm: RmsNorm::build(builder, &format!("{prefix}norm"), config.width)?,
            config,
        })
    }

    /// The hidden states `[n, t, d]` of tokens `[n, t]` after the last normalisation.
    ///
    /// The states of padding are finite but meaningless; no other state depends on them.
    ///
    /// # Panics
    ///
    /// If a token is not in the vocabulary.
    pub fn forward(&self, tokens: Tensor<2, Int>, tape: &mut Tape) -> Tensor<3> {
        let embedded = self.embed(tokens, tape);
        self.forward_embedded(embedded, tape)
    }

    /// The embeddings `[n, t, d]` of tokens `[n, t]`.
    ///
    /// # Panics
    ///
    /// If a token is not in the vocabulary.
    pub fn embed(&self, tokens: Tensor<2, Int>, tape: &mut Tape) -> Tensor<3> {
        self.embed_tokens.forward(tokens, tape)
    }

    /// [`forward`](Self::forward) of embeddings `[n, t, d]`, which need not be those of tokens.
    ///
    /// # Panics
    ///
    /// If the last dimension is not `d`.
    pub fn forward_embedded(&self, embedded: Tensor<3>, tape: &mut Tape) -> Tensor<3> {
        let [_, t, _] = embedded.dims();
        let device = embedded.device();
        let mut x = embedded;
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
        self.embed_tokens.base().weight.val().device()
    }

    /// The token embedding `[vocabulary, d]`, without an adapter.
    pub(crate) fn embedding(&self) -> Tensor<2> {
        self.embed_tokens.base().weight.val()
    }

    /// The token embedding with its adapter, if it has one.
    pub(crate) fn adaptable_embedding(&mut self) -> &mut AdaptableEmbedding {
        &mut self.embed_tokens
    }

    /// Calls `visit` with every linear layer and its name, which starts with `prefix`, in the order of use.
    pub(crate) fn visit_layers(&mut self, prefix: &str, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (name, linear) in layer.linears() {
                visit(&format!("{prefix}layers.{index}.{name}"), linear);
            }
        }
    }
}

/// The mask `[1, 1, t, t]`: true for keys after the query or before its window.
fn hidden_keys(t: usize, window: Option<usize>, device: &Device) -> Tensor<4, Bool> {
    let seen = |query: usize, key: usize| key <= query && window.is_none_or(|window| key + window > query);
    let values: Vec<bool> = (0..t * t).map(|place| !seen(place / t, place % t)).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, t, t]), device)
}
