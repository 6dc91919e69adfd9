use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use hyperinf_gradients::{Family, Likelihood, Tape, Task};

use crate::classifier::cross_entropy;
use crate::decoder::build::{self, Builder};
use crate::{Adaptable, CheckpointNames, Decoder, DecoderConfig, ModelError, Projection, TextModel};

/// What turns hidden states into logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LmHead {
    /// The token embedding once more.
    Tied,
    /// A linear layer of its own, without bias.
    Separate,
}

/// A text with the tokens that are to be predicted in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LmSample {
    /// Token numbers, not padded, at least two.
    pub tokens: Vec<u32>,
    /// Whether each token counts in the loss, predicted from those before it; as many as there are tokens, and never
    /// the first.
    pub scored: Vec<bool>,
}

/// Samples padded on the right to the longest, and the places where they are scored.
#[derive(Clone, Debug)]
pub struct LmBatch {
    /// Token numbers `[n, t]`; 0 where there is padding.
    pub tokens: Tensor<2, Int>,
    /// The positions that predict a scored token, as rows of the flattened hidden states `[n · t, d]`; samples in
    /// order, `[m]`.
    pub places: Tensor<1, Int>,
    /// The scored tokens, `[m]`.
    pub targets: Tensor<1, Int>,
    /// The number of scored tokens of each sample, `[n]`; their sum is `m`.
    pub counts: Vec<usize>,
}

/// A [`Decoder`] that predicts the next token.
///
/// As a [`Task`] its outputs are the logits `[m, vocabulary]` of the positions that predict a scored token, samples
/// in order, and the loss of a sample is the mean of `−log p` over its scored tokens, in nats. The other positions
/// never meet the vocabulary.
#[derive(Module, Debug)]
pub struct CausalLm {
    decoder: Decoder,
    /// `[d, vocabulary]`; the embedding serves where there is none.
    lm_head: Option<Linear>,
}

impl CausalLm {
    /// An untrained model; equal seeds give equal weights on every device.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn new(config: DecoderConfig, head: LmHead, seed: u64, device: &Device) -> Result<Self, ModelError> {
        Self::from_weights(config, head, device, build::untrained(seed))
    }

    /// A model with given weights, asked for one after another, so that none is held twice.
    ///
    /// `weights(name, shape)` gives the weight of a name in Hugging Face's checkpoints
    /// (`model.layers.0.self_attn.q_proj.weight`) in our shape: linear weights are `[d_input, d_output]`.
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
            LmHead::Separate => Some(builder.linear("lm_head", width, vocabulary, false)?),
        };
        Ok(Self { decoder, lm_head })
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The kind of the head.
    pub fn head(&self) -> LmHead {
        if self.lm_head.is_some() { LmHead::Separate } else { LmHead::Tied }
    }

    /// The logits `[n, t, vocabulary]` of every position of tokens `[n, t]`, padded on the right if at all.
    ///
    /// # Panics
    ///
    /// If a token is not in the vocabulary.
    pub fn logits(&self, tokens: Tensor<2, Int>, tape: &mut Tape) -> Tensor<3> {
        let hidden = self.decoder.forward(tokens, tape);
        let [n, t, d] = hidden.dims();
        self.vocabulary_product(hidden.reshape([n * t, d])).reshape([n, t, self.decoder.config().vocabulary])
    }

    /// `[m, d]` to logits `[m, vocabulary]`.
    pub(crate) fn vocabulary_product(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => hidden.matmul(self.decoder.embedding().transpose()),
        }
    }
}

impl Task for CausalLm {
    type Batch = LmBatch;

    fn forward(&self, batch: &LmBatch, tape: &mut Tape) -> Tensor<2> {
        let hidden = self.decoder.forward(batch.tokens.clone(), tape);
        let [n, t, d] = hidden.dims();
        self.vocabulary_product(hidden.reshape([n * t, d]).select(0, batch.places.clone()))
    }

    fn loss(&self, outputs: Tensor<2>, batch: &LmBatch) -> Tensor<1> {
        batch.mean_per_sample(cross_entropy(outputs, batch.targets.clone()))
    }

    /// Each scored token is a row of weight 1 / (the sample's scored tokens).
    fn likelihood(&self, batch: &LmBatch) -> Option<Likelihood> {
        let each = |(sample, &count): (usize, &usize)| std::iter::repeat_n((sample, 1.0 / count as f64), count);
        let (samples, weights): (Vec<usize>, Vec<f64>) = batch.counts.iter().enumerate().flat_map(each).unzip();
        let m = weights.len();
        let weights = Tensor::from_data(TensorData::new(weights, [m]), &batch.targets.device());
        Some(Likelihood { family: Family::Softmax, weights: Some(weights), samples: Some(samples) })
    }
}

impl LmBatch {
    /// Pads samples to the longest of them.
    ///
    /// # Errors
    ///
    /// If there are none, or one has fewer than 2 tokens or more than the model takes, a token outside the
    /// vocabulary, no scored token, the first token scored, or another number of marks than of tokens.
    pub fn new(samples: &[&LmSample], config: &DecoderConfig, device: &Device) -> Result<Self, ModelError> {
        let n = samples.len();
        let t =
            samples.iter().map(|s| s.tokens.len()).max().ok_or(ModelError::Empty { what: "samples in the batch" })?;
        let mut tokens = Vec::with_capacity(n * t);
        let (mut places, mut targets, mut counts) = (Vec::new(), Vec::new(), Vec::with_capacity(n));
        for (row, sample) in samples.iter().enumerate() {
            check_sample(row, sample, config)?;
            tokens.extend(sample.tokens.iter().map(|&token| i64::from(token)));
            tokens.extend(std::iter::repeat_n(0, t - sample.tokens.len()));
            let before = targets.len();
            for (position, &token) in sample.tokens.iter().enumerate().filter(|&(i, _)| sample.scored[i]) {
                places.push((row * t + position - 1) as i64);
                targets.push(i64::from(token));
            }
            counts.push(targets.len() - before);
        }
        let m = targets.len();
        Ok(Self {
            tokens: Tensor::from_data(TensorData::new(tokens, [n, t]), device),
            places: Tensor::from_data(TensorData::new(places, [m]), device),
            targets: Tensor::from_data(TensorData::new(targets, [m]), device),
            counts,
        })
    }

    /// The mean of each sample's values: `[m]` to `[n]`.
    ///
    /// # Panics
    ///
    /// If there are not `m` values.
    pub fn mean_per_sample(&self, values: Tensor<1>) -> Tensor<1> {
        let (n, most) = (self.counts.len(), self.counts.iter().copied().max().unwrap_or(0));
        let (device, dtype) = (values.device(), values.dtype());
        let (mut rows, mut absent, mut start) = (Vec::with_capacity(n * most), Vec::with_capacity(n * most), 0);
        for &count in &self.counts {
            // A row is filled up with its own first value: what is masked then depends on no other sample.
            rows.extend((0..most).map(|k| (start + if k < count { k } else { 0 }) as i64));
            absent.extend((0..most).map(|k| k >= count));
            start += count;
        }
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [n * most]), &device);
        let absent = Tensor::<2, Bool>::from_data(TensorData::new(absent, [n, most]), &device);
        let shares: Vec<f64> = self.counts.iter().map(|&count| 1.0 / count as f64).collect();
        let shares = Tensor::<1>::from_data(TensorData::new(shares, [n]), (&device, dtype));
        let sums = values.select(0, rows).reshape([n, most]).mask_fill(absent, 0.0).sum_dim(1);
        sums.squeeze_dim::<1>(1) * shares
    }
}

fn check_sample(sample: usize, found: &LmSample, config: &DecoderConfig) -> Result<(), ModelError> {
    let (tokens, limit, vocabulary) = (found.tokens.len(), config.max_tokens, config.vocabulary);
    if !(1..=limit).contains(&tokens) {
        return Err(ModelError::Length { sample, tokens, limit });
    }
    if let Some(&token) = found.tokens.iter().find(|&&token| token as usize >= vocabulary) {
        return Err(ModelError::Token { sample, token, vocabulary });
    }
    if found.scored.len() != tokens {
        return Err(ModelError::ScoredLength { sample, tokens, scored: found.scored.len() });
    }
    if found.scored[0] {
        return Err(ModelError::ScoredFirst { sample });
    }
    if found.scored.contains(&true) { Ok(()) } else { Err(ModelError::Unscored { sample, tokens }) }
}

impl TextModel for CausalLm {
    type Sample = LmSample;

    fn collate(&self, samples: &[&LmSample]) -> Result<LmBatch, ModelError> {
        LmBatch::new(samples, self.decoder.config(), &self.device())
    }

    fn tokens(sample: &LmSample) -> usize {
        sample.tokens.len()
    }

    fn device(&self) -> Device {
        self.decoder.device()
    }
}

/// Names as `base_model.model.model.layers.0.self_attn.q_proj`; the head is not among them, as with PEFT's
/// `all-linear`.
impl Adaptable for CausalLm {
    fn projections(&mut self, visit: &mut dyn FnMut(&str, &mut Projection)) {
        self.decoder.visit_projections("base_model.model.model.", visit);
    }
}

impl CheckpointNames for CausalLm {
    fn checkpoint_name(&self, path: &str) -> String {
        let name = path.replace(".base.", ".");
        name.strip_prefix("decoder.").map(|rest| format!("model.{rest}")).unwrap_or(name)
    }
}
