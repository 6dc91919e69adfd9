use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf_gradients::{Likelihood, Tape, Task};

use super::builder::{self, Builder};
use super::vision_encoder;
use crate::text::mean_states;
use crate::{
    Adaptable, AdaptableEmbedding, AdaptableLinear, CausalLm, CheckpointNames, Connector, ConnectorConfig,
    DecoderConfig, FeatureStage, LmHead, ModelError, ModelPart, SampleModel, VisionConfig, VisionEncoder, Visual,
    VlmBatch, VlmSample,
};

/// The sizes and the family of a [`VisionLanguage`].
#[derive(Clone, Debug, PartialEq)]
pub struct VisionLanguageConfig {
    /// The vision encoder.
    pub vision: VisionConfig,
    /// The connector, which also decides the names of the layers.
    pub connector: ConnectorConfig,
    /// The language model.
    pub text: DecoderConfig,
    /// The head of the language model.
    pub head: LmHead,
    /// The token whose embeddings are replaced by the vectors of images.
    pub image_token: u32,
}

impl VisionLanguageConfig {
    /// Vectors, and so image tokens, of an image or a tile.
    pub fn vectors(&self) -> usize {
        Connector::vectors(self.connector, self.vision.features())
    }

    /// The names of the three parts in a checkpoint: vision encoder, connector, language model.
    pub(crate) fn parts(&self) -> [&'static str; 3] {
        match self.connector {
            ConnectorConfig::PixelShuffle { .. } => ["model.vision_model.", "model.connector.", "model.text_model."],
            ConnectorConfig::Projector { .. } => {
                ["model.vision_tower.", "model.multi_modal_projector.", "model.language_model."]
            }
        }
    }
}

/// A language model that sees images: SmolVLM and Idefics3 (Laurençon et al. 2024), LLaVA (Liu et al. 2023).
///
/// The embeddings of image tokens are replaced, in order, by the vectors that the connector makes of the vision
/// encoder's features. As a [`Task`] it is a [`CausalLm`]: outputs are the logits of the scored places.
#[derive(Module, Debug)]
pub struct VisionLanguage {
    vision: VisionEncoder,
    connector: Connector,
    language: CausalLm,
    #[module(skip)]
    config: VisionLanguageConfig,
}

impl VisionLanguage {
    /// An untrained model; equal seeds give equal weights on every device.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn new(config: VisionLanguageConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        Self::from_weights(config, device, builder::untrained(seed))
    }

    /// A model with given weights, as [`CausalLm::from_weights`]. The weight of the patches is that of a linear layer,
    /// `[channels · patch², d]`.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid, `weights` fails or a shape differs.
    pub fn from_weights(
        config: VisionLanguageConfig,
        device: &Device,
        mut weights: impl FnMut(&str, &[usize]) -> Result<TensorData, ModelError>,
    ) -> Result<Self, ModelError> {
        let token = config.image_token as usize;
        let known = token < config.text.vocabulary;
        crate::error::check(known, "image_token_id", token as f64, "a token of the vocabulary")?;
        let [vision_part, connector_part, text_part] = config.parts();
        let builder = &mut Builder::new(&mut weights, device);
        let vision = VisionEncoder::build(builder, vision_part, config.vision)?;
        let connector = Connector::build(builder, connector_part, config.connector, &config.vision, config.text.width)?;
        let language = CausalLm::from_weights(config.text.clone(), config.head, device, |name, shape| {
            match name.strip_prefix("model.") {
                Some(rest) => weights(&format!("{text_part}{rest}"), shape),
                None => weights(name, shape),
            }
        })?;
        Ok(Self { vision, connector, language, config })
    }

    /// The model's sizes.
    pub fn config(&self) -> &VisionLanguageConfig {
        &self.config
    }

    /// The language model.
    pub fn language(&self) -> &CausalLm {
        &self.language
    }

    /// The last part whose result can be stored: nothing in it or before it is adapted or recorded. `None` if the
    /// vision encoder itself is.
    pub fn frozen_stage(&self) -> Option<FeatureStage> {
        let mut plain = true;
        let mut vision = self.vision.clone();
        vision.visit_layers("", &mut |_, layer| plain &= matches!(layer, AdaptableLinear::Plain(_)));
        match (plain, self.connector.is_plain()) {
            (false, _) => None,
            (true, false) => Some(FeatureStage::Encoder),
            (true, true) => Some(FeatureStage::Connector),
        }
    }

    /// The features of the tiles of one image, as far as `stage`.
    ///
    /// # Errors
    ///
    /// If there are not whole tiles, or a device fails.
    pub fn features(&self, pixels: &[f32], stage: FeatureStage) -> Result<Vec<f32>, ModelError> {
        let values = self.vision.config().channels * self.config.vision.image_size.pow(2);
        let mut all = Vec::new();
        for tile in pixels.chunks(values) {
            if tile.len() < values {
                return Err(ModelError::Pixels { sample: 0, found: pixels.len(), tile: values });
            }
            let size = self.config.vision.image_size;
            let data = TensorData::new(tile.to_vec(), [1, self.config.vision.channels, size, size]);
            let tile = Tensor::<4>::from_data(data, (&self.device(), self.dtype()));
            let mut found = self.vision.forward(tile, 1, &mut Tape::off());
            if stage == FeatureStage::Connector {
                found = self.connector.forward(found, 1, &mut Tape::off());
            }
            let data = found.without_autodiff().try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
            all.extend(data.iter::<f32>());
        }
        Ok(all)
    }

    /// The shape of a tile's features.
    pub(crate) fn feature_shape(&self, stage: FeatureStage) -> [usize; 2] {
        match stage {
            FeatureStage::Encoder => [self.config.vision.features(), self.config.vision.width],
            FeatureStage::Connector => [self.config.vectors(), self.config.text.width],
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        self.language.decoder().embedding().dtype()
    }

    /// The mean of the decoder's last hidden states over the tokens of each sample, those of images included, `[n, d]`.
    ///
    /// # Errors
    ///
    /// If there are no samples or one does not fit the model.
    pub fn mean_states(&self, samples: &[&VlmSample]) -> Result<Tensor<2>, ModelError> {
        let lengths: Vec<usize> = samples.iter().map(|sample| sample.text.tokens.len()).collect();
        Ok(mean_states(self.hidden(&self.collate(samples)?, &mut Tape::off()), &lengths))
    }

    /// The logits of the scored places of a batch.
    fn outputs(&self, batch: &VlmBatch, tape: &mut Tape) -> Tensor<2> {
        self.language.outputs(self.hidden(batch, tape), &batch.text, tape)
    }

    /// The last hidden states `[n, t, d]` of a batch.
    fn hidden(&self, batch: &VlmBatch, tape: &mut Tape) -> Tensor<3> {
        let [n, t] = batch.text.tokens.dims();
        let decoder = self.language.decoder();
        let embedded = decoder.embed(batch.text.tokens.clone(), tape);
        let features = match &batch.visual {
            Visual::None => None,
            Visual::Pixels(pixels) => {
                let features = self.vision.forward(pixels.clone(), n, tape);
                Some(self.connector.forward(features, n, tape))
            }
            Visual::Features(FeatureStage::Encoder, features) => {
                Some(self.connector.forward(features.clone(), n, tape))
            }
            Visual::Features(FeatureStage::Connector, features) => Some(features.clone()),
        };
        let embedded = match features {
            None => embedded,
            Some(features) => {
                let ([_, _, d], [rows, vectors, _]) = (embedded.dims(), features.dims());
                let all = Tensor::cat(vec![embedded.reshape([n * t, d]), features.reshape([rows * vectors, d])], 0);
                all.select(0, batch.places.clone()).reshape([n, t, d])
            }
        };
        decoder.forward_embedded(embedded, tape)
    }
}

impl Task for VisionLanguage {
    type Batch = VlmBatch;

    fn forward(&self, batch: &VlmBatch, tape: &mut Tape) -> Tensor<2> {
        self.outputs(batch, tape)
    }

    fn loss(&self, outputs: Tensor<2>, batch: &VlmBatch) -> Tensor<1> {
        self.language.loss(outputs, &batch.text)
    }

    fn likelihood(&self, batch: &VlmBatch) -> Option<Likelihood> {
        self.language.likelihood(&batch.text)
    }
}

impl SampleModel for VisionLanguage {
    type Sample = VlmSample;

    fn collate(&self, samples: &[&VlmSample]) -> Result<VlmBatch, ModelError> {
        VlmBatch::new(samples, self)
    }

    fn length(sample: &VlmSample) -> usize {
        sample.text.tokens.len()
    }

    fn device(&self) -> Device {
        self.language.device()
    }
}

/// Layers are named like `base_model.model.model.text_model.layers.0.self_attn.q_proj` (SmolVLM, Idefics3) and
/// `base_model.model.model.language_model.layers.0.self_attn.q_proj` (LLaVA). As with PEFT, a target such as `q_proj`
/// also names layers of the vision encoder.
impl Adaptable for VisionLanguage {
    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        let [vision, connector, text] = self.config.parts().map(|part| format!("base_model.model.{part}"));
        self.vision.visit_layers(&vision, visit);
        for (name, layer) in self.connector.linears() {
            visit(&format!("{connector}{name}"), layer);
        }
        self.language.decoder_mut().visit_layers(&text, visit);
    }

    fn visit_head(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        self.language.visit_head(visit);
    }

    fn embedding(&mut self) -> Option<(&'static str, &mut AdaptableEmbedding)> {
        let name = match self.config.connector {
            ConnectorConfig::PixelShuffle { .. } => "base_model.model.model.text_model.embed_tokens",
            ConnectorConfig::Projector { .. } => "base_model.model.model.language_model.embed_tokens",
        };
        Some((name, self.language.decoder_mut().adaptable_embedding()))
    }

    fn is_tied(&self) -> bool {
        self.language.is_tied()
    }

    fn untied(self) -> Self {
        Self { language: self.language.untied(), ..self }
    }

    fn part(&self, name: &str) -> Option<ModelPart> {
        let [_, connector, text] = self.config.parts().map(|part| format!("base_model.model.{part}"));
        let last = format!("{text}layers.{}.", self.config.text.layers - 1);
        if name.starts_with(&connector) {
            return Some(ModelPart::Connector);
        }
        name.starts_with(&last).then_some(ModelPart::LastLayer)
    }
}

impl CheckpointNames for VisionLanguage {
    fn checkpoint_name(&self, path: &str) -> String {
        let [vision, connector, text] = self.config.parts();
        let path = path.replace(".base.", ".");
        match path.split_once('.') {
            Some(("vision", rest)) => format!("{vision}{}", vision_encoder::checkpoint_name(rest)),
            Some(("connector", rest)) => format!("{connector}{}", self.connector.checkpoint_name(rest)),
            Some(("language", rest)) => match rest.strip_prefix("decoder.") {
                Some(rest) => format!("{text}{rest}"),
                None => rest.to_owned(),
            },
            _ => path,
        }
    }
}
