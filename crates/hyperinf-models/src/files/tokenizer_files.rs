use std::io;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::fields::Fields;
use super::load::{is_gguf, is_llama2c, read_json};
use super::open::read_regular;
use crate::{
    GgufVocabulary, LoadError, SpecialTokens, TextTokenizer, TokenizerSettings, gguf_tokenizer, llama2c_tokenizer,
};

impl TextTokenizer {
    /// The tokenizer of a model: in its folder, its `.gguf` file, or a llama2.c vocabulary (`.bin`).
    ///
    /// A folder must hold `tokenizer.json`. Special tokens come from `tokenizer_config.json`, `special_tokens_map.json`
    /// or `config.json`, the chat template from `chat_template.jinja`, `chat_template.json` or
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    ///
    /// If there is no `tokenizer.json`, or a file cannot be read.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        if is_gguf(path) {
            let GgufVocabulary { tokenizer, bos, eos, add_bos, chat_template, .. } = gguf_tokenizer(path)?;
            let special = SpecialTokens { bos, eos, pad: None };
            let settings = TokenizerSettings { special, add_bos: Some(add_bos), chat_template, no_segments: false };
            return Ok(Self::new(tokenizer, settings)?);
        }
        if is_llama2c(path) {
            let (bos, eos) = (Some(1), Some(2));
            let settings = TokenizerSettings {
                special: SpecialTokens { bos, eos, pad: None },
                add_bos: Some(true),
                ..TokenizerSettings::default()
            };
            return Ok(Self::new(llama2c_tokenizer(path)?, settings)?);
        }
        Self::of_folder(path)
    }

    fn of_folder(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            let looked_for =
                "`tokenizer.json` (a vocabulary alone, as in `vocab.txt` or `tokenizer.model`, is not enough)";
            return Err(LoadError::Missing { path: folder.to_owned(), what: "tokenizer", looked_for });
        }
        let bytes = read_regular(&path).map_err(|source| LoadError::File { path: path.clone(), source })?;
        let tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|source| LoadError::Tokenizer { path: path.clone(), source })?;
        let read = |name: &str| -> Result<Option<Fields>, LoadError> {
            let path = folder.join(name);
            if path.exists() { Fields::read(&path).map(Some) } else { Ok(None) }
        };
        let files = [read("tokenizer_config.json")?, read("special_tokens_map.json")?];
        let model = read("config.json")?;
        let token = |name: &str| {
            let text = files.iter().flatten().find_map(|file| file.get(&format!("{name}_token")).and_then(token_text));
            let number =
                || model.as_ref().and_then(|model| model.get(&format!("{name}_token_id"))).and_then(token_number);
            text.and_then(|text| tokenizer.token_to_id(text)).or_else(number)
        };
        let special = SpecialTokens { bos: token("bos"), eos: token("eos"), pad: token("pad") };
        let config = &files[0];
        let add_bos = config.as_ref().and_then(|config| config.get("add_bos_token")).and_then(Value::as_bool);
        let inputs = config.as_ref().and_then(|config| config.get("model_input_names")).and_then(Value::as_array);
        let no_segments = inputs.is_some_and(|names| !names.iter().any(|name| name == "token_type_ids"));
        let chat_template = chat_template(folder, config.as_ref())?;
        let settings = TokenizerSettings { special, add_bos, no_segments, chat_template };
        Ok(Self::new(tokenizer, settings)?)
    }
}

/// The text of a special token, which is stored as a string or as an object with its properties.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}

/// The id of a special token; of several, the first.
fn token_number(value: &Value) -> Option<u32> {
    let value = value.as_array().map_or(Some(value), |several| several.first())?;
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn chat_template(folder: &Path, config: Option<&Fields>) -> Result<Option<String>, LoadError> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        return read_regular(&path)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)))
            .map(Some)
            .map_err(|source| LoadError::File { path, source });
    }
    let path = folder.join("chat_template.json");
    if path.exists() {
        let value: Value = read_json(&path)?;
        return Ok(value.get("chat_template").and_then(Value::as_str).map(str::to_owned));
    }
    let Some(value) = config.and_then(|config| config.get("chat_template")) else {
        return Ok(None);
    };
    // A list holds named templates; the one for conversations is `default`.
    let named = |list: &Vec<Value>| {
        let default = list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?;
        default.get("template").and_then(Value::as_str).map(str::to_owned)
    };
    Ok(value.as_str().map(str::to_owned).or_else(|| value.as_array().and_then(named)))
}
