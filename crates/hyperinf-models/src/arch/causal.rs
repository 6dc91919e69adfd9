use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hyperinf_gradients::{Family, Likelihood, Tape, Task};
use hyperinf_ops::{affine, cross_entropy};

use super::builder::{self, Builder};
use crate::text::mean_states;
use crate::{
    Adaptable, AdaptableEmbedding, AdaptableLinear, CheckpointNames, Decoder, DecoderConfig, LmBatch, LmSample,
    LoraLinear, ModelError, ModelPart, SampleModel,
};

/// The output layer of a language model: how hidden states become logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LmHead {
    /// The token embedding, shared with the input.
    Tied,
    /// A separate linear layer without bias.
    Separate,
}

/// A [`Decoder`] that predicts the next token.
///
/// As a [`Task`], its outputs are the logits `[m, vocabulary]` of the positions that predict a scored token, sample by
/// sample; a sample's loss is the mean of `−log p` over its scored tokens, in nats. The vocabulary product, the largest
/// of small models, is not computed for any other position.
#[derive(Module, Debug)]
pub struct CausalLm {
    decoder: Decoder,
    /// `[d, vocabulary]`; `None` if the embedding is used.
    lm_head: Option<AdaptableLinear>,
}

impl CausalLm {
    /// An untrained model; equal seeds give equal weights on every device.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn new(config: DecoderConfig, head: LmHead, seed: u64, device: &Device) -> Result<Self, ModelError> {
        Self::from_weights(config, head, device, builder::untrained(seed))
    }

    /// A model with given weights, requested one after the other so that no weight is held twice.
    ///
    /// `weights(name, shape)` returns the weight with this name in Hugging Face's checkpoints
    /// (`model.layers.0.self_attn.q_proj.weight`), in this crate's shape: linear weights are `[d_input, d_output]`.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid, `weights` fails or a shape differs.
    pub fn from_weights(
        config: DecoderConfig,
        head: LmHead,
        device: &Device,
        mut weights: impl FnMut(&str, &[usize]) -> Result<TensorData, ModelError>,
    ) -> Result<Self, ModelError> {
        let (width, vocabulary) = (config.width, config.vocabulary);
        let builder = &mut Builder::new(&mut weights, device);
        let decoder = Decoder::build(builder, "model.", config)?;
        let lm_head = match head {
            LmHead::Tied => None,
            LmHead::Separate => Some(AdaptableLinear::Plain(builder.linear("lm_head", width, vocabulary, false)?)),
        };
        Ok(Self { decoder, lm_head })
    }

    /// The decoder below the head, to be changed.
    pub(crate) fn decoder_mut(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    /// The decoder below the head.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The kind of the head.
    pub fn head(&self) -> LmHead {
        if self.lm_head.is_some() { LmHead::Separate } else { LmHead::Tied }
    }

    /// The mean of the decoder's last hidden states over the tokens of each sample, `[n, d]`.
    ///
    /// # Errors
    ///
    /// If there are no samples or one does not fit the model.
    pub fn mean_states(&self, samples: &[&LmSample]) -> Result<Tensor<2>, ModelError> {
        let lengths: Vec<usize> = samples.iter().map(|sample| sample.tokens.len()).collect();
        let batch = self.collate(samples)?;
        Ok(mean_states(self.decoder.forward(batch.tokens, &mut Tape::off()), &lengths))
    }

    /// The logits `[n, t, vocabulary]` of every position of tokens `[n, t]`. Any padding must be on the right.
    ///
    /// # Panics
    ///
    /// If a token is not in the vocabulary.
    pub fn logits(&self, tokens: Tensor<2, Int>, tape: &mut Tape) -> Tensor<3> {
        let hidden = self.decoder.forward(tokens, tape);
        if let Some(lora) = self.head_adapter() {
            return lora.forward(hidden, tape);
        }
        let [n, t, d] = hidden.dims();
        self.vocabulary_product(hidden.reshape([n * t, d])).reshape([n, t, self.decoder.config().vocabulary])
    }

    /// The logits `[m, vocabulary]` of the scored places from hidden states `[n, t, d]`.
    pub(crate) fn outputs(&self, hidden: Tensor<3>, batch: &LmBatch, tape: &mut Tape) -> Tensor<2> {
        let [n, t, d] = hidden.dims();
        if let Some(lora) = self.head_adapter() {
            // A tape needs samples and positions apart: logits of positions without a target are computed too.
            let logits = lora.forward(hidden, tape);
            let vocabulary = logits.dims()[2];
            return logits.reshape([n * t, vocabulary]).select(0, batch.places.clone());
        }
        self.vocabulary_product(hidden.reshape([n * t, d]).select(0, batch.places.clone()))
    }

    fn head_adapter(&self) -> Option<&LoraLinear> {
        self.lm_head.as_ref().and_then(AdaptableLinear::adapter)
    }

    /// Hidden states `[m, d]` to logits `[m, vocabulary]`.
    pub(crate) fn vocabulary_product(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.lm_head {
            Some(AdaptableLinear::Lora(lora)) => lora.forward(hidden, &mut Tape::off()),
            Some(head) => {
                let Linear { weight, bias } = head.base();
                affine(hidden, weight.val(), bias.as_ref().map(|bias| bias.val()))
            }
            None => affine(hidden, self.decoder.embedding().transpose(), None),
        }
    }
}

impl Task for CausalLm {
    type Batch = LmBatch;

    fn forward(&self, batch: &LmBatch, tape: &mut Tape) -> Tensor<2> {
        self.outputs(self.decoder.forward(batch.tokens.clone(), tape), batch, tape)
    }

    fn loss(&self, outputs: Tensor<2>, batch: &LmBatch) -> Tensor<1> {
        batch.mean_per_sample(cross_entropy(outputs, batch.targets.clone()))
    }

    /// Each scored token is a row, weighted by 1 / (number of scored tokens of its sample).
    fn likelihood(&self, batch: &LmBatch) -> Option<Likelihood> {
        let each = |(sample, &count): (usize, &usize)| std::iter::repeat_n((sample, 1.0 / count as f64), count);
        let (samples, weights): (Vec<usize>, Vec<f64>) = batch.counts.iter().enumerate().flat_map(each).unzip();
        let m = weights.len();
        let weights = Tensor::from_data(TensorData::new(weights, [m]), &batch.targets.device());
        Some(Likelihood { family: Family::Softmax, weights: Some(weights), samples: Some(samples) })
    }
}

impl SampleModel for CausalLm {
    type Sample = LmSample;

    fn collate(&self, samples: &[&LmSample]) -> Result<LmBatch, ModelError> {
        LmBatch::new(samples, self.decoder.config(), &self.device())
    }

    fn length(sample: &LmSample) -> usize {
        sample.tokens.len()
    }

    fn device(&self) -> Device {
        self.decoder.device()
    }
}

/// Layers are named like `base_model.model.model.layers.0.self_attn.q_proj`. The head is not among them, as with
/// PEFT's `all-linear`.
impl Adaptable for CausalLm {
    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        self.decoder.visit_layers("base_model.model.model.", visit);
    }

    fn part(&self, name: &str) -> Option<ModelPart> {
        let last = format!("base_model.model.model.layers.{}.", self.decoder.config().layers - 1);
        name.starts_with(&last).then_some(ModelPart::LastLayer)
    }

    fn is_tied(&self) -> bool {
        self.head() == LmHead::Tied
    }

    fn untied(self) -> Self {
        let Self { decoder, lm_head } = self;
        let copy = || Linear { weight: Param::from_tensor(decoder.embedding().transpose()), bias: None };
        let lm_head = lm_head.unwrap_or_else(|| AdaptableLinear::Plain(copy()));
        Self { decoder, lm_head: Some(lm_head) }
    }

    fn visit_head(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        if let Some(head) = &mut self.lm_head {
            visit("base_model.model.lm_head", head);
        }
    }

    fn embedding(&mut self) -> Option<(&'static str, &mut AdaptableEmbedding)> {
        Some(("base_model.model.model.embed_tokens", self.decoder.adaptable_embedding()))
    }
}

impl CheckpointNames for CausalLm {
    fn checkpoint_name(&self, path: &str) -> String {
        let name = path.replace(".base.", ".");
        name.strip_prefix("decoder.").map(|rest| format!("model.{rest}")).unwrap_or(name)
    }
}
