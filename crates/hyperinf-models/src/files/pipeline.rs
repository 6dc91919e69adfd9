//! Diffusers' folders of text-to-image models: `model_index.json`, and a folder for each part.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Value, json};

use super::autoencoder::load_autoencoder;
use super::clip::load_clip_text;
use super::diffusers::load_pixart;
use super::fields::Fields;
use super::load::{LoadReport, LoadedModel, load_encoder};
use super::scheduler::{self, noise_process, scheduler_class, scheduler_config};
use super::unet::load_unet;
use super::whole::write_whole;
use crate::{
    CaptionTokenizer, ClipTokenizer, Denoiser, ImageCoder, LoadError, NoiseProcess, Pipeline, TextEncoder, TextToImage,
    TextTokenizer,
};

/// The file that makes a folder a pipeline.
pub(super) const INDEX: &str = "model_index.json";
/// The class of Stable Diffusion's text encoder.
const CLIP: &str = "CLIPTextModel";
/// The parts that are read: folder, and the classes that it may hold.
const PARTS: [(&str, &[&str]); 4] = [
    ("transformer", &["PixArtTransformer2DModel"]),
    ("unet", &["UNet2DConditionModel"]),
    ("text_encoder", &["BertModel", "RobertaModel", "XLMRobertaModel", CLIP]),
    ("vae", &["AutoencoderKL"]),
];
/// Parts that change nothing here: any tokenizer and scheduler says itself whether it can be read.
const ANY: [&str; 4] = ["tokenizer", "scheduler", "safety_checker", "feature_extractor"];
const PIPELINES: [&str; 4] =
    ["PixArtAlphaPipeline", "PixArtSigmaPipeline", "StableDiffusionPipeline", "DiffusionPipeline"];

/// Whether a folder is a pipeline's.
pub(super) fn is_pipeline(path: &Path) -> bool {
    path.join(INDEX).exists()
}

/// Loads a text-to-image model from diffusers' folder.
///
/// `model_index.json` names the parts: `scheduler/`, `transformer/` (PixArt) or `unet/` (Stable Diffusion 1.5 and 2),
/// `text_encoder/` and `tokenizer/` (CLIP, or BERT and its relatives), `vae/`. A safety checker is not run. Any other part, class or
/// setting that changes the loss is refused by name.
///
/// # Errors
///
/// If a part is missing, damaged or not supported, or the parts do not fit each other.
pub fn load_pipeline(folder: &Path, device: &Device) -> Result<LoadedModel<Pipeline>, LoadError> {
    let fields = Fields::read(&folder.join(INDEX))?;
    let parts = parts(&fields)?;
    let has = |name: &str| parts.contains(&name);
    let process = noise_process(folder)?;
    let mut report = LoadReport::default();
    let denoiser = match (has("transformer"), has("unet")) {
        (true, false) => Denoiser::PixArt(taken(load_pixart(&folder.join("transformer"), device)?, &mut report)),
        (false, true) => Denoiser::UNet(taken(load_unet(&folder.join("unet"), device)?, &mut report)),
        (both, _) => {
            let expected = "one of `transformer` and `unet`";
            return Err(fields.refuse("unet", &json!(if both { "both" } else { "neither" }), expected));
        }
    };
    if !has("text_encoder") {
        return Err(fields.absent("text_encoder"));
    }
    let (encoder, tokenizer) = (folder.join("text_encoder"), tokenizer_folder(folder));
    let text = if is_clip(&fields) {
        let encoder = taken(load_clip_text(&encoder, device)?, &mut report);
        TextEncoder::Clip { encoder, tokenizer: ClipTokenizer::read(&tokenizer)? }
    } else {
        let encoder = taken(load_encoder(&encoder, device)?, &mut report);
        TextEncoder::Bert { encoder, tokenizer: TextTokenizer::read(&tokenizer)? }
    };
    if text.width() != denoiser.text_width() {
        let name = "text states".to_owned();
        let (found, expected) = (vec![text.width()], vec![denoiser.text_width()]);
        return Err(crate::ModelError::WeightShape { name, found, expected }.into());
    }
    let [channels, side, _] = denoiser.shape();
    let images = if has("vae") {
        let autoencoder = taken(load_autoencoder(&folder.join("vae"), device)?, &mut report);
        let (found, seen) = (autoencoder.config().latent_channels, autoencoder.config().channels);
        if (found, seen) != (channels, 3) {
            let name = "latents".to_owned();
            return Err(
                crate::ModelError::WeightShape { name, found: vec![seen, found], expected: vec![3, channels] }.into()
            );
        }
        ImageCoder::of_latents(autoencoder, side)
    } else if channels == 3 {
        ImageCoder::of_pixels(side)
    } else {
        let expected = "a `vae`, without which the denoiser's pictures have 3 channels";
        return Err(fields.refuse("vae", &json!(format!("none, for {channels} channels")), expected));
    };
    Ok(LoadedModel { model: Pipeline { model: TextToImage::new(denoiser, process), text, images }, report })
}

/// The tokenizer of a pipeline's captions, without its models.
///
/// # Errors
///
/// As [`load_pipeline`].
pub fn load_caption_tokenizer(folder: &Path) -> Result<CaptionTokenizer, LoadError> {
    let fields = Fields::read(&folder.join(INDEX))?;
    parts(&fields)?;
    let place = tokenizer_folder(folder);
    Ok(if is_clip(&fields) {
        CaptionTokenizer::Clip(ClipTokenizer::read(&place)?)
    } else {
        CaptionTokenizer::Bert(TextTokenizer::read(&place)?)
    })
}

fn is_clip(fields: &Fields) -> bool {
    fields.get("text_encoder").is_some_and(|part| part[1] == CLIP)
}

/// Where a pipeline's tokenizer is.
pub(super) fn tokenizer_folder(folder: &Path) -> PathBuf {
    folder.join("tokenizer")
}

/// The parts that the index names, without those that change nothing.
fn parts(fields: &Fields) -> Result<Vec<&'static str>, LoadError> {
    fields.only("_class_name", &PIPELINES.map(|name| json!(name)), &PIPELINES.join(", "))?;
    let mut found = Vec::new();
    for (name, value) in fields.entries() {
        let Value::Array(part) = value else {
            if name.starts_with('_') || name == "requires_safety_checker" {
                continue;
            }
            return Err(fields.refuse(name, value, "settings that are known"));
        };
        let class = match part.as_slice() {
            [_, Value::Null] => continue,
            [_, Value::String(class)] => class.as_str(),
            _ => return Err(fields.refuse(name, value, "a library with a class")),
        };
        if ANY.contains(&name) {
            continue;
        }
        match PARTS.iter().find(|(part, _)| *part == name) {
            Some((part, classes)) if classes.contains(&class) => found.push(*part),
            Some((_, classes)) if !classes.is_empty() => return Err(fields.refuse(name, value, &classes.join(", "))),
            _ => return Err(fields.refuse(name, value, "pipelines without it")),
        }
    }
    Ok(found)
}

fn taken<M>(loaded: LoadedModel<M>, report: &mut LoadReport) -> M {
    report.ignored.extend(loaded.report.ignored);
    loaded.model
}

/// Writes `model_index.json` and the scheduler of a pipeline whose other parts are in their folders: `transformer/` or
/// `unet/`, `text_encoder/` of a class such as `BertModel`, and `tokenizer/`.
///
/// # Errors
///
/// If a file cannot be written.
pub fn save_pipeline_index(
    folder: &Path,
    denoiser: &Denoiser,
    process: &NoiseProcess,
    text_encoder: &str,
) -> Result<(), LoadError> {
    let (part, class, pipeline) = match denoiser {
        Denoiser::PixArt(_) => ("transformer", "PixArtTransformer2DModel", "PixArtAlphaPipeline"),
        Denoiser::UNet(_) => ("unet", "UNet2DConditionModel", "StableDiffusionPipeline"),
    };
    let index = json!({
        "_class_name": pipeline,
        part: ["diffusers", class],
        "scheduler": ["diffusers", scheduler_class(process)],
        "text_encoder": ["transformers", text_encoder],
        "tokenizer": ["transformers", "AutoTokenizer"],
        "vae": [null, null],
    });
    let place = folder.join(scheduler::FOLDER);
    let failed = |(path, source): (PathBuf, _)| LoadError::File { path, source };
    std::fs::create_dir_all(&place).map_err(|e| failed((place.clone(), e)))?;
    for (path, value) in [(place.join(scheduler::FILE), scheduler_config(process)), (folder.join(INDEX), index)] {
        let json = |source| LoadError::Json { path: path.clone(), source };
        let mut text = serde_json::to_vec_pretty(&value).map_err(json)?;
        text.push(b'\n');
        write_whole(&[(path, text)]).map_err(failed)?;
    }
    Ok(())
}
