use std::borrow::Borrow;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use hyperinf_gradients::{Estimate, Tape, Task};
use hyperinf_linalg::host;
use hyperinf_models::{
    Adapter, ConnectorConfig, FeatureCache, ImageProcessor, Images, Limit, ModelKind, Picture, PictureLimits,
    SampleModel, TextTokenizer, TokenizeError, TokenizedSample, TrainConfig, VisionLanguage as Model,
    VisionLanguageConfig, VlmSample, load_vision_language, vision_language_settings,
};
use twox_hash::XxHash3_128;

use super::language_model::{self, LanguageModel};
use crate::dataset::Dataset;
use crate::illustrated::Illustrated;
use crate::images::ImageSource;
use crate::kind::{Kind, Prepared, known_tokens};
use crate::model_files::ModelFiles;
use crate::prediction::Prediction;
use crate::{Notice, Reason, RunError};

/// Language models that see images: conversations in which the assistant's messages are predicted.
#[derive(Clone, Copy, Debug, Default)]
pub struct VisionLanguage;

/// Turns conversations and images into samples.
#[derive(Clone, Debug)]
pub struct VisionProcessor {
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// What is done with images.
    pub images: ImageProcessor,
    /// Whether every image is one tile.
    one_tile: bool,
    /// The image token in texts.
    pub mark: String,
    /// Where features of images are stored, as far as the model's frozen parts compute them; `None`: in memory.
    pub features: Option<FeatureCache>,
}

/// Writes conversations, with a mark for each image.
#[derive(Clone, Debug)]
pub struct VisionReader {
    tokenizer: TextTokenizer,
    mark: String,
}

impl VisionReader {
    fn new(files: &ModelFiles, config: &VisionLanguageConfig) -> Result<Self, RunError> {
        let mut tokenizer = files.tokenizer()?;
        let token = config.image_token;
        let mark = tokenizer.token(token).ok_or(RunError::ImageToken { token, vocabulary: tokenizer.vocabulary() })?;
        if matches!(config.connector, ConnectorConfig::Projector { .. }) {
            tokenizer = tokenizer.or_llava_prompt(&mark).map_err(|error| files.of_model()(error.into()))?;
        }
        tokenizer.notice_ends();
        Ok(Self { tokenizer, mark })
    }
}

impl Borrow<TextTokenizer> for VisionReader {
    fn borrow(&self) -> &TextTokenizer {
        &self.tokenizer
    }
}

impl VisionProcessor {
    fn new(files: &ModelFiles, model: &Model) -> Result<Self, RunError> {
        let VisionReader { tokenizer, mark } = VisionReader::new(files, model.config())?;
        let images = image_processor(files)?;
        Ok(Self { tokenizer, images, mark, one_tile: files.one_tile, features: features(files, model)? })
    }
}

fn image_processor(files: &ModelFiles) -> Result<ImageProcessor, RunError> {
    let images = ImageProcessor::load(files.path()).map_err(files.of_model())?;
    match (files.one_tile, images.tiling) {
        (true, None) => Err(RunError::NoTiles { model: files.name.clone() }),
        (true, Some(_)) => Ok(images.with_one_tile()),
        (false, _) => Ok(images),
    }
}

/// Where features are stored for the frozen parts of a model.
fn features(files: &ModelFiles, model: &Model) -> Result<Option<FeatureCache>, RunError> {
    match (&files.features, model.frozen_stage()) {
        (Some(folder), Some(stage)) => Ok(Some(FeatureCache::open(folder, &files.model_fingerprint(), stage)?)),
        _ => Ok(None),
    }
}

/// The images of a row as a model gets them.
struct Tiles {
    /// What takes the place of each image's mark.
    texts: Vec<String>,
    count: usize,
    pixels: Vec<f32>,
    /// The hash of the files.
    name: String,
}

impl Tiles {
    fn new(prepared: &Prepared<VisionLanguage>, sources: &[ImageSource], limit: Limit) -> Result<Self, Reason> {
        let (config, limits) = (prepared.model.config(), PictureLimits::default());
        let size = config.vision.image_size;
        let (mut texts, mut count, mut pixels, mut hasher) = (Vec::new(), 0, Vec::new(), XxHash3_128::new());
        for source in sources {
            // Before more memory is taken for images that no limit has room for.
            let (tokens, most) = (count * config.vectors(), limit.tokens());
            if tokens > most {
                return Err(match limit {
                    Limit::Refuse(limit) => TokenizeError::TooLong { tokens, limit },
                    Limit::Cut(limit) => TokenizeError::ImageCut { limit, left: most, tokens },
                }
                .into());
            }
            let bytes = source.bytes(&limits)?;
            hasher.write(&(bytes.len() as u64).to_le_bytes());
            hasher.write(&bytes);
            let picture = Picture::decode(&bytes, &limits).map_err(|error| source.failed(&error))?;
            let found = prepared.processor.images.process(&picture).map_err(|error| source.failed(&error))?;
            for tile in found.tiles {
                let [colours, height, width] = tile.shape;
                if tile.shape != [config.vision.channels, size, size] {
                    let needed = config.vision.channels;
                    let error = format!(
                        "its processor makes {colours} × {height} × {width} values of it, but the model needs {needed} \
                         × {size} × {size}"
                    );
                    return Err(source.failed(&error));
                }
                pixels.extend(tile.values);
                count += 1;
            }
            texts.push(config.image_text(&prepared.processor.mark, found.rows, found.columns));
        }
        // Features are found by this name, and an image of one tile has others.
        let form = if prepared.processor.one_tile { "-1" } else { "" };
        Ok(Self { texts, count, pixels, name: format!("{:032x}{form}", hasher.finish_128()) })
    }

    /// The pixels, or what the frozen parts of the model make of them.
    fn images(self, prepared: &Prepared<VisionLanguage>) -> Result<Images, Reason> {
        let failed = |error: hyperinf_models::ModelError| Reason::Features { error: error.to_string() };
        Ok(match (self.count, &prepared.processor.features, prepared.model.frozen_stage()) {
            (0, ..) => Images::None,
            (_, _, None) => Images::Pixels(Arc::new(self.pixels)),
            (tiles, Some(cache), _) => {
                cache.features(&prepared.model, &self.name, tiles, || Ok(self.pixels)).map_err(failed)?
            }
            (_, None, Some(stage)) => {
                Images::Features(stage, Arc::new(prepared.model.features(&self.pixels, stage).map_err(failed)?))
            }
        })
    }
}

impl Kind for VisionLanguage {
    type Model = Model;
    type Content = Illustrated;
    type Processor = VisionProcessor;
    type Reader = VisionReader;

    const NAME: &'static str = "vision-language";
    const IMAGES: bool = true;
    const USUAL_LENGTH: usize = 2048;
    /// Of the language model only: the layers of vision encoders are called `encoder.layers`.
    const ADAPTED: &'static [&'static str] = &["*_model.layers.*.q_proj", "*_model.layers.*.v_proj"];

    fn training() -> TrainConfig {
        LanguageModel::training()
    }

    fn matches(kind: ModelKind) -> bool {
        kind == ModelKind::VisionLanguage
    }

    fn load(
        files: &ModelFiles,
        adapter: Option<&Adapter>,
        _rows: &Dataset<Illustrated>,
        device: &Device,
    ) -> Result<Prepared<Self>, RunError> {
        let mut model = load_vision_language(files.path(), device).map_err(files.of_model())?.model;
        if let Some(adapter) = adapter {
            model = adapter.apply(model).map_err(files.of_adapter())?;
        }
        let processor = VisionProcessor::new(files, &model)?;
        Ok(Prepared { model, processor })
    }

    fn load_base(
        files: &ModelFiles,
        train: &Dataset<Illustrated>,
        _seed: u64,
        device: &Device,
        _notify: &mut dyn FnMut(Notice),
    ) -> Result<Prepared<Self>, RunError> {
        Self::load(files, None, train, device)
    }

    fn changed(prepared: &mut Prepared<Self>, files: &ModelFiles) -> Result<(), RunError> {
        prepared.processor.features = features(files, &prepared.model)?;
        Ok(())
    }

    fn tokenizer(processor: &VisionProcessor) -> Option<&TextTokenizer> {
        Some(&processor.tokenizer)
    }

    fn positions(model: &Model) -> usize {
        model.config().text.max_tokens
    }

    fn sample(
        prepared: &Prepared<Self>,
        content: &Illustrated,
        limit: Limit,
    ) -> Result<TokenizedSample<VlmSample>, Reason> {
        let tiles = Tiles::new(prepared, &content.images, limit)?;
        let VisionProcessor { tokenizer, mark, .. } = &prepared.processor;
        let found = tokenizer.chat_with_images(&content.conversation, mark, &tiles.texts, limit)?;
        known_tokens(&found.sample.tokens, prepared.model.config().text.vocabulary)?;
        let sample = VlmSample { text: found.sample, tiles: tiles.count, images: tiles.images(prepared)? };
        Ok(TokenizedSample { sample, cut: found.cut })
    }

    fn reader(files: &ModelFiles) -> Result<VisionReader, RunError> {
        if files.one_tile {
            image_processor(files)?;
        }
        let config = vision_language_settings(files.path()).map_err(files.of_model())?;
        VisionReader::new(files, &config)
    }

    /// Images are not opened: a mark stands for each.
    fn tokens(
        VisionReader { tokenizer, mark }: &VisionReader,
        content: &Illustrated,
        limit: Limit,
    ) -> Result<TokenizedSample<Vec<(u32, bool)>>, Reason> {
        let images = vec![mark.clone(); content.images.len()];
        let TokenizedSample { sample, cut } =
            tokenizer.chat_with_images(&content.conversation, mark, &images, limit)?;
        Ok(TokenizedSample { sample: sample.tokens.into_iter().zip(sample.scored).collect(), cut })
    }

    fn row_notices(tokenizer: &TextTokenizer, data: &Dataset<Illustrated>) -> Vec<Notice> {
        language_model::of_conversations(tokenizer, data)
    }

    fn predict(model: &Model, samples: &[&VlmSample]) -> Result<Vec<Prediction>, RunError> {
        let batch = model.collate(samples)?;
        let losses = host(model.loss(model.forward(&batch, &mut Tape::off()), &batch))?;
        Ok(samples.iter().zip(losses).map(|(sample, loss)| language_model::of_tokens(&sample.text, loss)).collect())
    }

    fn states(model: &Model, samples: &[&VlmSample]) -> Result<Tensor<2>, RunError> {
        Ok(model.mean_states(samples)?)
    }

    fn prediction_of_loss(_: &Model, sample: &VlmSample, loss: f64) -> Option<Prediction> {
        Some(language_model::of_tokens(&sample.text, loss))
    }

    fn token_ids(sample: &VlmSample) -> Option<Vec<u32>> {
        Some(sample.text.tokens.clone())
    }

    fn bytes(sample: &VlmSample) -> Vec<u8> {
        let mut bytes = LanguageModel::bytes(&sample.text);
        bytes.extend((sample.tiles as u64).to_le_bytes());
        match &sample.images {
            Images::None => {}
            Images::Pixels(values) | Images::Features(_, values) => {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            // The name is the hash of the images.
            Images::Stored(_, path) => bytes.extend(path.file_name().unwrap_or_default().as_encoded_bytes()),
        }
        bytes
    }

    fn check_estimate(estimate: Estimate) -> Result<(), RunError> {
        LanguageModel::check_estimate(estimate)
    }
}
