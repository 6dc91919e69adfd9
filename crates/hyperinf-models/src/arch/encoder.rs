use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Int, Tensor};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::encoder_layer::EncoderLayer;
use super::encoder_names::published;
use super::init::Init;
use crate::{Adaptable, AdaptableLinear, CheckpointNames, EncoderConfig, ModelError, NormPlacement, TokenBatch};

/// A transformer encoder with learned positions: BERT, RoBERTa, MiniLM, and variants that normalise before each part.
///
/// Samples are independent of each other and of padding: padded keys get attention weight 0, and anything built on an
/// encoder must leave out padded positions, as [`pooled`](Self::pooled) does.
#[derive(Module, Debug)]
pub struct Encoder {
    token_embedding: Embedding,
    position_embedding: Embedding,
    segment_embedding: Option<Embedding>,
    layers: Vec<EncoderLayer>,
    /// Normalises the embeddings (post) or the output of the last layer (pre).
    norm: LayerNorm,
    pooler: Option<AdaptableLinear>,
    #[module(skip)]
    config: EncoderConfig,
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
        let positions = config.first_position + config.max_tokens;
        Ok(Self {
            token_embedding: Embedding { weight: init.uniform([config.vocabulary, width], 0.1) },
            position_embedding: Embedding { weight: init.uniform([positions, width], 0.1) },
            layers: (0..config.layers).map(|_| EncoderLayer::new(&config, &mut init, device)).collect(),
            norm: norm(&config, device),
            segment_embedding: (config.segments > 0)
                .then(|| Embedding { weight: init.uniform([config.segments, width], 0.1) }),
            pooler: config.pooler.then(|| plain(&mut init, width, width)),
            config,
        })
    }

    /// The last hidden states `[n, t, d]`. Those of padding are meaningless.
    ///
    /// # Panics
    ///
    /// If the batch was made for an encoder with more tokens, positions or segments than this one.
    pub fn forward(&self, batch: &TokenBatch, tape: &mut Tape) -> Tensor<3> {
        let [n, t] = batch.tokens.dims();
        let first = self.config.first_position as i64;
        let positions = Tensor::<1, Int>::arange(first..first + t as i64, &batch.tokens.device()).unsqueeze();
        let mut hidden =
            self.token_embedding.forward(batch.tokens.clone()) + self.position_embedding.forward(positions);
        if let Some(segments) = &self.segment_embedding {
            hidden = hidden + segments.forward(batch.segments.clone());
        }
        let padding = batch.mask.clone().bool_not().reshape([n, 1, 1, t]);
        let through = |hidden, tape: &mut Tape| {
            self.layers.iter().fold(hidden, |hidden, layer| layer.forward(hidden, &padding, n, tape))
        };
        match self.config.norm {
            NormPlacement::Pre => ops::layer_norm(&self.norm, self.config.norm_epsilon, through(hidden, tape)),
            NormPlacement::Post => through(ops::layer_norm(&self.norm, self.config.norm_epsilon, hidden), tape),
        }
    }

    /// The mean hidden state over each sample's own tokens, `[n, d]`. Models of sentence-transformers divide it by its
    /// norm and use it as the embedding of a sentence.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn pooled(&self, batch: &TokenBatch, tape: &mut Tape) -> Tensor<2> {
        let hidden = self.forward(batch, tape);
        let [n, t, d] = hidden.dims();
        let mask = batch.mask.clone().float().cast(hidden.dtype());
        let lengths = mask.clone().sum_dim(1);
        // Multiplying by zero would let a non-finite padded state through; filling does not.
        let padding = batch.mask.clone().bool_not().unsqueeze_dim::<3>(2).expand([n, t, d]);
        hidden.mask_fill(padding, 0.0).sum_dim(1).squeeze_dim::<2>(1) / lengths
    }

    /// The last hidden state of each sample's first token, `[n, d]`.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub(crate) fn first(&self, batch: &TokenBatch, tape: &mut Tape) -> Tensor<2> {
        self.forward(batch, tape).narrow(1, 0, 1).squeeze_dim(1)
    }

    /// BERT's pooled output, `tanh(W h + b)` of the first token's last hidden state, `[n, d]`. Without a pooler, the
    /// state itself.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub(crate) fn first_pooled(&self, batch: &TokenBatch, tape: &mut Tape) -> Tensor<2> {
        let first = self.first(batch, tape);
        match &self.pooler {
            Some(pooler) => pooler.forward(first.unsqueeze_dim(1), tape).squeeze_dim::<2>(1).tanh(),
            None => first,
        }
    }

    /// The encoder's sizes and variant.
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

    /// Calls `visit` with the adaptable layers that [`forward`](Self::forward) uses.
    pub(crate) fn visit_layers_without_pooler(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        let family = self.config.family.name();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (part, linear) in layer.linears() {
                let name = published(&format!("layers.{index}.{part}"));
                visit(&format!("base_model.model.{family}.{name}"), linear);
            }
        }
    }
}

/// Layers are named as within a classifier: `base_model.model.bert.encoder.layer.0.attention.self.query`.
impl Adaptable for Encoder {
    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        self.visit_layers_without_pooler(visit);
        let family = self.config.family.name();
        if let Some(pooler) = &mut self.pooler {
            visit(&format!("base_model.model.{family}.pooler.dense"), pooler);
        }
    }
}

/// Parameters are named as within a classifier: `bert.encoder.layer.0.attention.self.query.weight`; a bare encoder's
/// file leaves `bert.` out.
///
/// With [`NormPlacement::Pre`], the last normalisation takes the name of the first: no published model has that form.
impl CheckpointNames for Encoder {
    fn checkpoint_name(&self, path: &str) -> String {
        format!("{}.{}", self.config.family.name(), published(path))
    }
}

pub(super) fn norm(config: &EncoderConfig, device: &Device) -> LayerNorm {
    LayerNormConfig::new(config.width).with_epsilon(config.norm_epsilon).init(device)
}

pub(super) fn plain(init: &mut Init<'_>, d_input: usize, d_output: usize) -> AdaptableLinear {
    AdaptableLinear::Plain(init.linear(d_input, d_output))
}
