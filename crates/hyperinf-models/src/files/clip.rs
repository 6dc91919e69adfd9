//! CLIP's text encoder as it lies in a diffusers folder: `text_encoder/` and `tokenizer/`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::load::{LoadReport, LoadedModel, read_json};
use super::open::read_regular;
use super::panics::guarded;
use super::shards::Shards;
use super::tensors::{IgnoredTensors, pull};
use super::tokenizer_class::Class;
use super::tokenizer_files::build;
use super::tokenizer_limits;
use super::tokenizer_outside::{Outside, document};
use crate::{
    Activation, ClipText, ClipTextConfig, ClipTokenizer, LoadError, SpecialTokens, TextTokenizer, TokenizerSettings,
};

/// CLIP's words: contractions, runs of letters, single digits, and runs of other characters.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// The longest prompt, unless `model_max_length` says another.
const LENGTH: usize = 77;
/// Longer ones are placeholders for no limit.
const LONGEST: f64 = 100_000.0;

/// Loads CLIP's text encoder from a folder of transformers' `CLIPTextModel`.
///
/// Every tensor must be used and every setting that changes the computation is followed or refused, as in
/// [`load_encoder`](crate::load_encoder). Numbers are converted to f32.
///
/// # Errors
///
/// If a file is missing, damaged or of another model, or a setting is not supported.
pub fn load_clip_text(folder: &Path, device: &Device) -> Result<LoadedModel<ClipText>, LoadError> {
    let fields = Fields::read(&folder.join("config.json"))?;
    let config = clip_config(&fields)?;
    let half = folder.join("model.fp16.safetensors");
    let mut shards = match Shards::of_folder(folder) {
        Err(LoadError::Missing { .. }) if half.exists() => Shards::open(&[half])?,
        Err(LoadError::Missing { path, what, .. }) => {
            let looked_for = "`model.safetensors`; a `.bin` must be converted first";
            return Err(LoadError::Missing { path, what, looked_for });
        }
        other => other?,
    };
    let tensors = shards.names().count();
    if config.layers > tensors {
        let expected = format!("fewer than the {tensors} tensors");
        return Err(fields.refuse("num_hidden_layers", &json!(config.layers), &expected));
    }
    let ignored = IgnoredTensors { prefixes: &["text_projection."], suffixes: &["embeddings.position_ids"] };
    let mut report = LoadReport::default();
    let model =
        pull(&mut shards, folder, &ignored, &mut report, |source| ClipText::from_weights(config, device, source))?;
    Ok(LoadedModel { model, report })
}

fn clip_config(fields: &Fields) -> Result<ClipTextConfig, LoadError> {
    fields.only("model_type", &[json!("clip_text_model")], "\"clip_text_model\"")?;
    fields.only("use_attention_mask", &[json!(false)], "absent: padding is seen")?;
    let default = ClipTextConfig::default();
    let name = fields.text("hidden_act")?.unwrap_or_else(|| "quick_gelu".to_owned());
    let activation = Activation::named(&name)
        .ok_or_else(|| fields.refuse("hidden_act", &json!(name), &Activation::NAMES.join(", ")))?;
    let size = |name: &str, default: usize| match fields.get(name) {
        Some(_) => fields.size(name),
        None => Ok(default),
    };
    let config = ClipTextConfig {
        vocabulary: size("vocab_size", default.vocabulary)?,
        max_tokens: size("max_position_embeddings", default.max_tokens)?,
        // transformers' defaults are not those of Stable Diffusion.
        width: fields.size("hidden_size")?,
        layers: fields.size("num_hidden_layers")?,
        heads: fields.size("num_attention_heads")?,
        feed_forward: fields.size("intermediate_size")?,
        norm_epsilon: fields.number("layer_norm_eps")?.unwrap_or(default.norm_epsilon),
        activation,
    };
    fields.checked(config.validate())?;
    Ok(config)
}

impl ClipTokenizer {
    /// The tokenizer in a folder: `vocab.json` with `merges.txt`, or `tokenizer.json`, and their settings.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, the class is not CLIP's, or a special token is not in the vocabulary.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let outside = Outside::read(folder)?;
        let config = &outside.config;
        let classes = [json!("CLIPTokenizer"), json!("CLIPTokenizerFast")];
        config.only("tokenizer_class", &classes, "\"CLIPTokenizer\"")?;
        config.only("do_lower_case", &[json!(true)], "true")?;
        let (path, vocabulary, merges) = vocabulary(folder)?;
        let tokens = outside.added(&[], Class::Clip)?;
        let name = |name: &str| tokens.named.get(name).ok_or_else(|| config.absent(name));
        let whole = json!({
            "version": "1.0",
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, {"type": "Lowercase"},
            ]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": true},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            ]},
            "model": {
                "type": "BPE", "vocab": vocabulary, "merges": merges, "dropout": null, "unk_token": name("unk_token")?,
                "continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": false,
                "byte_fallback": false, "ignore_merges": false,
            },
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
                {"type": "Replace", "pattern": {"String": "</w>"}, "content": " "},
            ]},
        });
        let whole = whole.as_object().cloned().unwrap_or_default();
        tokenizer_limits::check(&path, &whole)?;
        let failed = |source| LoadError::Tokenizer { path: path.clone(), source };
        let tokenizer =
            guarded(|| build(whole, &[], &tokens.tokens)).map_err(|e| failed(Box::new(e)))?.map_err(failed)?;
        let id = |token: &str| {
            let text = name(token)?;
            let expected = "a token of the vocabulary";
            tokenizer.token_to_id(text).ok_or_else(|| config.refuse(token, &json!(text), expected))
        };
        let [bos, eos, pad] = [id("bos_token")?, id("eos_token")?, id("pad_token")?];
        let special = SpecialTokens { bos: Some(bos), eos: Some(eos), pad: Some(pad) };
        let settings = TokenizerSettings { special, file: Some(path), ..TokenizerSettings::default() };
        let length = match config.number("model_max_length")? {
            Some(length) if length < LONGEST => config.size("model_max_length")?,
            _ => LENGTH,
        };
        Ok(Self::new(TextTokenizer::new(tokenizer, settings)?, [bos, eos, pad], length))
    }
}

/// The file, the vocabulary and the merges.
fn vocabulary(folder: &Path) -> Result<(PathBuf, Value, Value), LoadError> {
    let (words, merges, whole) = (folder.join("vocab.json"), folder.join("merges.txt"), folder.join("tokenizer.json"));
    if words.exists() && merges.exists() {
        let vocabulary: Map<String, Value> = read_json(&words)?;
        let failed = |source| LoadError::File { path: merges.clone(), source };
        let text = read_regular(&merges).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
        });
        let text = text.map_err(failed)?;
        let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
        let lines: Vec<Value> = lines.map(|line| json!(line)).collect();
        return Ok((words, Value::Object(vocabulary), Value::Array(lines)));
    }
    if !whole.exists() {
        let looked_for = "`vocab.json` with `merges.txt`, or `tokenizer.json`";
        return Err(LoadError::Missing { path: folder.to_owned(), what: "tokenizer", looked_for });
    }
    let mut file = document(&whole)?;
    let mut take = |part: &str| file.get_mut("model").and_then(|model| model.get_mut(part)).map(Value::take);
    match (take("vocab"), take("merges")) {
        (Some(vocabulary), Some(merges)) => Ok((whole, vocabulary, merges)),
        _ => Err(LoadError::FieldMissing { path: whole, field: "model.vocab` and `model.merges".to_owned() }),
    }
}
