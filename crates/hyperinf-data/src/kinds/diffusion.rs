use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use hyperinf_gradients::{Estimate, Tape, Task};
use hyperinf_linalg::host;
use hyperinf_models::{
    Adapter, CaptionTokenizer, Denoiser, DiffusionSample, ImageCoder, Limit, LoadError, ModelError, ModelKind, Picture,
    PictureLimits, Pipeline, PromptDropout, SampleModel, TextEncoder, TextState, TextToImage, TokenizedSample,
    TrainConfig, ValueCache, load_caption_tokenizer, load_pipeline,
};
use serde_json::Value;
use twox_hash::XxHash3_128;

use crate::captioned::Captioned;
use crate::dataset::Dataset;
use crate::diffusion_options::described;
use crate::images::ImageSource;
use crate::kind::{Kind, Prepared};
use crate::model_files::ModelFiles;
use crate::prediction::{Predicted, Prediction};
use crate::run_of_kind::GENERATION;
use crate::{Choice, Notice, Reason, RunError};

/// Text-to-image models that remove noise: pictures with captions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Diffusion;

/// Turns captions into states of the text encoder, and pictures into what the denoiser sees.
pub struct DiffusionProcessor {
    /// The text encoder.
    pub text: TextEncoder,
    /// What pictures become.
    pub images: ImageCoder,
    /// Where states and latents are stored; `None`: in memory.
    pub cache: Option<ValueCache>,
    /// The states of the captions so far, by their tokens.
    states: Mutex<HashMap<Vec<u32>, TextState>>,
}

impl DiffusionProcessor {
    fn state(&self, tokens: &[u32]) -> Result<TextState, ModelError> {
        let states = || self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = states().get(tokens) {
            return Ok(known.clone());
        }
        let width = self.text.width();
        let encode = || Ok(self.text.encode(&[tokens])?.pop().map(|state| state.values).unwrap_or_default());
        let values = match &self.cache {
            Some(cache) => {
                let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
                cache.values(&format!("text-{:032x}", XxHash3_128::oneshot(&bytes)), width, encode)?
            }
            None => encode()?,
        };
        let state = TextState { width, values };
        states().insert(tokens.to_owned(), state.clone());
        Ok(state)
    }

    fn image(&self, source: &ImageSource) -> Result<Vec<f32>, Reason> {
        let limits = PictureLimits::default();
        let bytes = source.bytes(&limits)?;
        let encode = || -> Result<Vec<f32>, Reason> {
            let picture = Picture::decode(&bytes, &limits).map_err(|error| source.failed(&error))?;
            self.images.pixels(&picture).map_err(|error| source.failed(&error))
        };
        let failed = |error: ModelError| Reason::Features { error: error.to_string() };
        match &self.cache {
            Some(cache) if self.images.has_encoder() => {
                // Before the cache is asked: an error of the picture is one of the row.
                let pixels = encode()?;
                let name = format!("latents-{:032x}", XxHash3_128::oneshot(&bytes));
                cache.values(&name, 1, || self.images.encode(pixels)).map_err(failed)
            }
            _ => self.images.encode(encode()?).map_err(failed),
        }
    }
}

fn refuse_tokenizer(files: &ModelFiles) -> Result<(), RunError> {
    let reason = "captions are tokenised as the model's text encoder was trained";
    let conflict = RunError::Conflict { first: Choice::Tokenizer, second: Choice::Diffusion, reason };
    if files.has_own_tokenizer() { Err(conflict) } else { Ok(()) }
}

fn load(files: &ModelFiles, device: &Device) -> Result<Prepared<Diffusion>, RunError> {
    refuse_tokenizer(files)?;
    let Pipeline { mut model, text, images } = load_pipeline(files.path(), device).map_err(files.of_model())?.model;
    files.diffusion.apply(&mut model)?;
    let name = format!("{} {GENERATION}", files.model_fingerprint());
    let cache = files.features.as_ref().map(|folder| ValueCache::open(folder, &name));
    let processor = DiffusionProcessor { text, images, cache: cache.transpose()?, states: Mutex::default() };
    Ok(Prepared { model, processor })
}

/// The name of the denoiser's folder, which LoRA files repeat.
fn part(model: &TextToImage) -> &'static str {
    match model.denoiser {
        Denoiser::PixArt(_) => "transformer",
        Denoiser::UNet(_) => "unet",
    }
}

impl Kind for Diffusion {
    type Model = TextToImage;
    type Content = Captioned;
    type Processor = DiffusionProcessor;
    type Reader = CaptionTokenizer;

    const NAME: &'static str = "diffusion";
    const IMAGES: bool = true;
    const USUAL_LENGTH: usize = 512;
    const ADAPTED: &'static [&'static str] = &["to_q", "to_k", "to_v", "to_out.0"];
    const UNIT: &'static str = "pictures";

    /// Ten passes at 1e-3 in batches of 16: a step sees one timestep of each picture.
    fn training() -> TrainConfig {
        TrainConfig { learning_rate: 1e-3, batch_size: 16, epochs: 10, ..TrainConfig::default() }
    }

    fn matches(kind: ModelKind) -> bool {
        kind == ModelKind::TextToImage
    }

    /// An adapter may be PEFT's folder, or a LoRA file with the names of diffusers or kohya.
    fn load(
        files: &ModelFiles,
        adapter: Option<&Adapter>,
        _rows: &Dataset<Captioned>,
        device: &Device,
    ) -> Result<Prepared<Self>, RunError> {
        let mut prepared = load(files, device)?;
        let of_file = files.lora_file().map(|path| Adapter::read_lora_file(&path, &prepared.model));
        let of_file = of_file.transpose().map_err(files.of_adapter())?;
        if let Some(adapter) = adapter.or(of_file.as_ref()) {
            prepared.model = adapter.apply(prepared.model).map_err(files.of_adapter())?;
        }
        Ok(prepared)
    }

    fn load_base(
        files: &ModelFiles,
        _train: &Dataset<Captioned>,
        _seed: u64,
        device: &Device,
        _notify: &mut dyn FnMut(Notice),
    ) -> Result<Prepared<Self>, RunError> {
        let mut prepared = load(files, device)?;
        let share = files.diffusion.prompt_dropout;
        if share > 0.0 {
            let text = &prepared.processor.text;
            let empty = text.tokens("", Limit::Cut(text.positions()));
            let empty = empty.map_err(|error| files.of_model()(error.into()))?.sample;
            let empty = prepared.processor.state(&empty)?;
            prepared.model.prompt_dropout = Some(PromptDropout { share, empty });
        }
        Ok(prepared)
    }

    fn settings(model: &TextToImage) -> Option<Value> {
        Some(described(model))
    }

    /// diffusers' file, which `load_lora_weights` reads.
    fn more_files(model: &TextToImage, adapter: &Adapter) -> Result<Vec<(&'static str, Vec<u8>)>, LoadError> {
        Ok(vec![(Adapter::LORA_FILE, adapter.lora_file(part(model))?)])
    }

    /// The text encoder's limit is in its hands.
    fn positions(_: &TextToImage) -> usize {
        usize::MAX
    }

    fn sample(
        prepared: &Prepared<Self>,
        content: &Captioned,
        limit: Limit,
    ) -> Result<TokenizedSample<DiffusionSample>, Reason> {
        let processor = &prepared.processor;
        let TokenizedSample { sample: tokens, cut } = processor.text.tokens(&content.caption, limit)?;
        let text = processor.state(&tokens).map_err(|error| Reason::Tokens(error.to_string()))?;
        let image = processor.image(&content.image)?;
        let shape = prepared.model.denoiser.shape();
        Ok(TokenizedSample { sample: DiffusionSample { shape, image, text }, cut })
    }

    fn reader(files: &ModelFiles) -> Result<CaptionTokenizer, RunError> {
        refuse_tokenizer(files)?;
        load_caption_tokenizer(files.path()).map_err(files.of_model())
    }

    /// Images are not opened, and padding is left out.
    fn tokens(
        tokenizer: &CaptionTokenizer,
        content: &Captioned,
        limit: Limit,
    ) -> Result<TokenizedSample<Vec<(u32, bool)>>, Reason> {
        let TokenizedSample { sample, cut } = tokenizer.tokens(&content.caption, limit)?;
        Ok(TokenizedSample { sample: sample.into_iter().map(|token| (token, false)).collect(), cut })
    }

    fn predict(model: &TextToImage, samples: &[&DiffusionSample]) -> Result<Vec<Prediction>, RunError> {
        let batch = model.collate(samples)?;
        let losses = host(model.loss(model.forward(&batch, &mut Tape::off()), &batch))?;
        Ok(losses.into_iter().map(|loss| Prediction { loss, target: Predicted::Picture }).collect())
    }

    fn prediction_of_loss(_: &TextToImage, _: &DiffusionSample, loss: f64) -> Option<Prediction> {
        Some(Prediction { loss, target: Predicted::Picture })
    }

    fn bytes(sample: &DiffusionSample) -> Vec<u8> {
        let sizes = sample.shape.iter().chain([&sample.text.width]).flat_map(|&size| (size as u64).to_le_bytes());
        let values = sample.image.iter().chain(&sample.text.values).flat_map(|value| value.to_le_bytes());
        sizes.chain(values).collect()
    }

    fn check_estimate(estimate: Estimate) -> Result<(), RunError> {
        match estimate {
            Estimate::GaussNewton { sketch: None } => Err(RunError::Conflict {
                first: Choice::Estimate(estimate),
                second: Choice::Diffusion,
                reason: "it is a backward pass per timestep and value of a picture; a sketch of it is not",
            }),
            Estimate::Empirical | Estimate::Sampled { .. } | Estimate::GaussNewton { sketch: Some(_) } => Ok(()),
        }
    }
}
