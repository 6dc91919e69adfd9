//! Loading of models from Hugging Face folders, and the choice of the loader for other files.

use std::ffi::OsStr;
use std::io::BufReader;
use std::path::Path;

use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::decoder_config::{DecoderFamily, decoder_config};
use super::encoder_config::encoder_config;
use super::fields::Fields;
use super::open::open_regular;
use super::own_head::{self, OwnHead};
use super::pipeline::is_pipeline;
use super::shards::Shards;
use super::sizes;
use super::tensors::{IgnoredTensors, check, fill, pull};
use super::vision_language_config::{VisionFamily, text_fields, vision_language_config};
use crate::{
    CausalLm, Encoder, EncoderClassifier, EncoderFamily, HeadKind, LmHead, LoadError, RecordedLayers, VisionLanguage,
    VisionLanguageConfig, load_gguf, load_llama2c,
};

/// A model with a report of its loading.
#[derive(Clone, Debug)]
pub struct LoadedModel<M> {
    /// The model.
    pub model: M,
    /// The tensors that were ignored and the parameters that were created.
    pub report: LoadReport,
}

/// The tensors and parameters that loading did not match one to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors that were not used: tables that can be computed, and heads for other tasks.
    pub ignored: Vec<String>,
    /// Parameters that were drawn from the seed, by their names in a checkpoint.
    pub created: Vec<String>,
    /// The names of the classes, if the checkpoint's own head is used and its settings name them.
    pub labels: Option<Vec<String>>,
}

/// The kinds of models that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// An encoder, for [`load_classifier`] and [`load_encoder`].
    Encoder,
    /// A language model, for [`load_causal_lm`].
    CausalLm,
    /// A language model that sees images, for [`load_vision_language`].
    VisionLanguage,
    /// A diffusion model with all its parts, for [`load_pipeline`](crate::load_pipeline).
    TextToImage,
}

/// The options of [`load_classifier`].
///
/// | field | default | purpose |
/// |---|---|---|
/// | `classes` | `None` | number of classes; `None` for those of the checkpoint's head |
/// | `head` | `None` | kind of head; `None` for that of the family |
/// | `seed` | 0 | seed of a new head |
/// | `own_head` | `Used` | what is done with the checkpoint's own head |
///
/// The family's kind is [`HeadKind::Dense`] for RoBERTa and [`HeadKind::Pooler`] for BERT, as in Hugging Face's
/// libraries. Without a pooler in the checkpoint it is [`HeadKind::Mean`], because a frozen layer with random weights
/// helps nobody.
///
/// The checkpoint's own head is used if it has this number of classes and this kind. Otherwise a new head is created,
/// and the report says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassifierOptions {
    /// The number of classes.
    pub classes: Option<usize>,
    /// The kind of head.
    pub head: Option<HeadKind>,
    /// The seed of a new head.
    pub seed: u64,
    /// What is done with the checkpoint's own head.
    pub own_head: OwnHead,
}

/// The beginnings of the names of heads other than a classifier's.
const UNUSED_HEADS: &[&str] = &["cls.", "lm_head.", "qa_outputs.", "score."];
const ALL_HEADS: &[&str] = &["cls.", "lm_head.", "qa_outputs.", "score.", "classifier."];

const ENCODERS: &[&str] = &["bert", "roberta", "xlm-roberta"];
const DECODERS: &[&str] = &["llama", "mistral", "qwen2"];
const VISION: &[&str] = &["llava", "idefics3", "smolvlm"];
const ALL: &[&str] = &["bert", "roberta", "xlm-roberta", "llama", "mistral", "qwen2", "llava", "idefics3", "smolvlm"];

/// Every layer has more, even where some are missing.
const TENSORS_OF_A_LAYER: usize = 2;

pub(super) enum Family {
    Encoder(EncoderFamily),
    Decoder(DecoderFamily),
    Vision(VisionFamily),
}

/// The kind of the model at a path.
///
/// # Errors
///
/// If there is no model, or its type is not supported.
pub fn model_kind(path: &Path) -> Result<ModelKind, LoadError> {
    if is_gguf(path) || is_llama2c(path) {
        return Ok(ModelKind::CausalLm);
    }
    if is_pipeline(path) {
        return Ok(ModelKind::TextToImage);
    }
    Ok(match family(path, &settings(path)?)? {
        Family::Encoder(_) => ModelKind::Encoder,
        Family::Decoder(_) => ModelKind::CausalLm,
        Family::Vision(_) => ModelKind::VisionLanguage,
    })
}

/// Loads an encoder with a classification head from a folder.
///
/// The folder holds `config.json` and `model.safetensors`, or `model.safetensors.index.json` with the files it names.
/// Numbers in f16, bf16 and f64 are converted to f32. Tensors are read one at a time, so that memory holds one model
/// and one tensor. Every tensor must be used, except those of [`LoadReport::ignored`]; every setting of `config.json`
/// that changes what is computed is followed or refused, except dropout, which is not applied to a frozen base.
///
/// # Errors
///
/// If a file is missing, damaged or of an unsupported model; if tensors are missing, unused or of another shape; if
/// there is neither a head in the checkpoint nor a number of classes.
pub fn load_classifier(
    folder: &Path,
    options: &ClassifierOptions,
    device: &Device,
) -> Result<LoadedModel<EncoderClassifier>, LoadError> {
    let (fields, family) = encoder_settings(folder)?;
    let mut shards = Shards::of_folder(folder)?;
    let pooler = has_pooler(&shards);
    let fitting = own_head::find(&shards).filter(|own| {
        options.classes.is_none_or(|wanted| wanted == own.classes)
            && options.head.is_none_or(|wanted| wanted == own.kind)
            && (own.kind == HeadKind::Dense) == (family == EncoderFamily::Roberta)
    });
    let mut report = LoadReport::default();
    if let Some(own) = &fitting {
        report.labels = own_head::labels(&fields, own.classes)?;
    }
    let used = match &fitting {
        Some(own) if options.own_head == OwnHead::Used => {
            own_head::check(own, folder, &fields, family, pooler)?;
            Some((own.kind, own.classes))
        }
        _ => None,
    };
    let (kind, classes) = match (used, options.classes) {
        (Some(own), _) => own,
        (None, Some(classes)) => {
            let usual = match family {
                EncoderFamily::Roberta => HeadKind::Dense,
                EncoderFamily::Bert if pooler => HeadKind::Pooler,
                EncoderFamily::Bert => HeadKind::Mean,
            };
            (options.head.unwrap_or(usual), classes)
        }
        (None, None) => return Err(LoadError::NoHead { path: folder.to_owned() }),
    };
    // BERT's head needs a pooler: if the checkpoint lacks it, loading lists it as missing.
    let config = encoder_config(&fields, family, pooler || kind == HeadKind::Pooler)?;
    check_layers(&fields, config.layers, &shards)?;
    let prefixes = if used.is_some() { UNUSED_HEADS } else { ALL_HEADS };
    let ignored = IgnoredTensors { prefixes, suffixes: &["position_ids"] };
    let mut expected = sizes::of_encoder(&config);
    if used.is_some() {
        expected.extend(sizes::of_head(kind, classes, config.width));
    }
    check(&shards, folder, &expected, &ignored)?;
    let encoder = Encoder::new(config, options.seed, device)?;
    let model = EncoderClassifier::new(encoder, kind, classes, RecordedLayers::default(), options.seed)?;
    let created = |path: &str| used.is_none() && path.starts_with("classifier.");
    let model = fill(model, &mut shards, folder, &ignored, created, &mut report)?;
    Ok(LoadedModel { model, report })
}

/// Loads an encoder without a head, as for sentence embeddings; heads in the checkpoint are ignored.
///
/// # Errors
///
/// As [`load_classifier`].
pub fn load_encoder(folder: &Path, device: &Device) -> Result<LoadedModel<Encoder>, LoadError> {
    let (fields, family) = encoder_settings(folder)?;
    let mut shards = Shards::of_folder(folder)?;
    let config = encoder_config(&fields, family, has_pooler(&shards))?;
    check_layers(&fields, config.layers, &shards)?;
    let ignored = IgnoredTensors { prefixes: ALL_HEADS, suffixes: &["position_ids"] };
    check(&shards, folder, &sizes::of_encoder(&config), &ignored)?;
    let mut report = LoadReport::default();
    let model = fill(Encoder::new(config, 0, device)?, &mut shards, folder, &ignored, |_| false, &mut report)?;
    Ok(LoadedModel { model, report })
}

/// Loads a language model from a folder, a `.gguf` file or a llama2.c `.bin` file.
///
/// # Errors
///
/// As [`load_classifier`].
pub fn load_causal_lm(path: &Path, device: &Device) -> Result<LoadedModel<CausalLm>, LoadError> {
    if is_gguf(path) {
        return Ok(LoadedModel { model: load_gguf(path, device)?, report: LoadReport::default() });
    }
    if is_llama2c(path) {
        return Ok(LoadedModel { model: load_llama2c(path, device)?, report: LoadReport::default() });
    }
    let fields = settings(path)?;
    let wrong =
        |found| LoadError::ModelType { path: path.to_owned(), found, wanted: "language models are", known: DECODERS };
    let Family::Decoder(family) = family(path, &fields)? else {
        return Err(wrong(fields.text("model_type")?.unwrap_or_default()));
    };
    let (config, head) = decoder_config(&fields, family)?;
    let mut shards = Shards::of_folder(path)?;
    check_layers(&fields, config.layers, &shards)?;
    let prefixes: &[&str] = if head == LmHead::Tied { &["lm_head.", "score."] } else { &["score."] };
    let ignored = IgnoredTensors { prefixes, suffixes: &["rotary_emb.inv_freq"] };
    check(&shards, path, &sizes::of_decoder(&config, head), &ignored)?;
    let mut report = LoadReport::default();
    let model = pull(&mut shards, path, &ignored, &mut report, |weights| {
        CausalLm::from_weights(config, head, device, weights)
    })?;
    Ok(LoadedModel { model, report })
}

/// Loads a vision-language model from a folder: LLaVA with a CLIP encoder, Idefics3 or SmolVLM.
///
/// LLaVA's tensors may have the names of earlier libraries. Layers of its encoder behind the one whose output is used
/// are loaded but not run; its last normalisation is ignored.
///
/// # Errors
///
/// As [`load_classifier`].
pub fn load_vision_language(folder: &Path, device: &Device) -> Result<LoadedModel<VisionLanguage>, LoadError> {
    let (fields, family) = vision_family(folder)?;
    let mut shards = Shards::of_folder(folder)?;
    let has_head = shards.names().any(|name| name.ends_with("lm_head.weight"));
    let config = vision_language_config(&fields, family, has_head)?;
    check_layers(&text_fields(&fields, family)?.0, config.text.layers, &shards)?;
    if let Some(vision) = fields.within("vision_config", "vision_config.")? {
        check_layers(&vision, config.vision.layers, &shards)?;
    }
    let prefixes: &[&str] = if config.head == LmHead::Tied { &["lm_head.", "language_model.lm_head."] } else { &[] };
    let suffixes: &[&str] = match family {
        VisionFamily::Llava => &["rotary_emb.inv_freq", "position_ids", "post_layernorm.weight", "post_layernorm.bias"],
        VisionFamily::Idefics3 => &["rotary_emb.inv_freq", "position_ids"],
    };
    let ignored = IgnoredTensors { prefixes, suffixes };
    check(&shards, folder, &sizes::of_vision_language(&config), &ignored)?;
    let mut report = LoadReport::default();
    let model = pull(&mut shards, folder, &ignored, &mut report, |weights| {
        VisionLanguage::from_weights(config, device, weights)
    })?;
    Ok(LoadedModel { model, report })
}

/// The settings of a vision-language model, without a look at its weights: whether its output layer is tied may not be
/// known then, and counts as true.
///
/// # Errors
///
/// If there are none, or a setting is not supported.
pub fn vision_language_settings(folder: &Path) -> Result<VisionLanguageConfig, LoadError> {
    let (fields, family) = vision_family(folder)?;
    vision_language_config(&fields, family, false)
}

fn vision_family(folder: &Path) -> Result<(Fields, VisionFamily), LoadError> {
    let fields = settings(folder)?;
    let Family::Vision(family) = family(folder, &fields)? else {
        let (found, wanted) = (fields.text("model_type")?.unwrap_or_default(), "vision-language models are");
        return Err(LoadError::ModelType { path: folder.to_owned(), found, wanted, known: VISION });
    };
    Ok((fields, family))
}

pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

pub(crate) fn is_llama2c(path: &Path) -> bool {
    path.is_file() && path.extension() == Some(OsStr::new("bin"))
}

/// The settings of the model in a folder.
pub(super) fn settings(folder: &Path) -> Result<Fields, LoadError> {
    let path = folder.join("config.json");
    if path.exists() {
        let fields = Fields::read(&path)?;
        return match fields.get("quantization_config") {
            Some(value) => Err(fields.refuse("quantization_config", value, "a model without it")),
            None => Ok(fields),
        };
    }
    let adapter = folder.join("adapter_config.json");
    if adapter.exists() {
        let base = Fields::read(&adapter)?.text("base_model_name_or_path")?;
        return Err(LoadError::IsAdapter { path: folder.to_owned(), base });
    }
    Err(LoadError::Missing { path: folder.to_owned(), what: "model", looked_for: "`config.json`" })
}

pub(super) fn family(path: &Path, fields: &Fields) -> Result<Family, LoadError> {
    let name = fields.text("model_type")?.unwrap_or_default();
    Ok(match name.as_str() {
        "bert" => Family::Encoder(EncoderFamily::Bert),
        "roberta" | "xlm-roberta" => Family::Encoder(EncoderFamily::Roberta),
        "llama" => Family::Decoder(DecoderFamily::Llama),
        "mistral" => Family::Decoder(DecoderFamily::Mistral),
        "qwen2" => Family::Decoder(DecoderFamily::Qwen2),
        "llava" => Family::Vision(VisionFamily::Llava),
        "idefics3" | "smolvlm" => Family::Vision(VisionFamily::Idefics3),
        _ => {
            let wanted = "models that can be loaded are";
            return Err(LoadError::ModelType { path: path.to_owned(), found: name, wanted, known: ALL });
        }
    })
}

fn encoder_settings(folder: &Path) -> Result<(Fields, EncoderFamily), LoadError> {
    if is_gguf(folder) || is_llama2c(folder) {
        let (found, wanted) = ("language model".to_owned(), "classifiers are");
        return Err(LoadError::ModelType { path: folder.to_owned(), found, wanted, known: ENCODERS });
    }
    let fields = settings(folder)?;
    match family(folder, &fields)? {
        Family::Encoder(family) => Ok((fields, family)),
        Family::Decoder(_) | Family::Vision(_) => {
            let found = fields.text("model_type")?.unwrap_or_default();
            let wanted = "classifiers are";
            Err(LoadError::ModelType { path: folder.to_owned(), found, wanted, known: ENCODERS })
        }
    }
}

/// Fails if there are too many layers for the tensors: the list of missing tensors could be endless.
pub(super) fn check_layers(fields: &Fields, layers: usize, shards: &Shards) -> Result<(), LoadError> {
    let tensors = shards.names().count();
    if layers.saturating_mul(TENSORS_OF_A_LAYER) <= tensors {
        return Ok(());
    }
    Err(fields.refuse("num_hidden_layers", &json!(layers), &format!("fewer layers than the {tensors} tensors")))
}

fn has_pooler(shards: &Shards) -> bool {
    shards.names().any(|name| name.ends_with("pooler.dense.weight"))
}

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let file = open_regular(path).map_err(|source| LoadError::File { path: path.to_owned(), source })?;
    serde_json::from_reader(BufReader::new(file)).map_err(|source| LoadError::Json { path: path.to_owned(), source })
}
