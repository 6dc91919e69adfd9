use std::io;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
};

use super::fields::Fields;
use super::load::{is_gguf, is_llama2c, read_json};
use super::open::read_regular;
use super::panics::guarded;
use super::tokenizer_class::Class;
use super::tokenizer_limits;
use super::tokenizer_outside::{Added, Outside, added_tokens, document};
use super::tokenizer_vocabulary;
use crate::text::{Growth, around};
use crate::{
    ChatSource, GgufVocabulary, LoadError, SpecialTokens, TextTokenizer, TokenizerNotice, TokenizerSettings,
    gguf_tokenizer, llama2c_tokenizer,
};

type FindTemplate = fn(&Path, &Fields) -> Result<Option<ChatSource>, LoadError>;
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

impl TextTokenizer {
    /// The tokenizer of a model: in its folder, its `.gguf` file, or a llama2.c vocabulary (`.bin`).
    ///
    /// A folder must hold `tokenizer.json`, or `vocab.txt` of a BERT tokenizer, or `vocab.json` and `merges.txt` of one
    /// of GPT-2, RoBERTa or Qwen2. The tokens are those of transformers 5 and its `AutoTokenizer`: the class in
    /// `tokenizer_config.json`, or else that of the model in `config.json`, decides what is taken from `tokenizer.json`
    /// and which settings have an effect; `added_tokens_decoder`, `special_tokens_map.json` and `added_tokens.json` add
    /// tokens. Special tokens come from these files or `config.json`, the chat template from `chat_template.jinja`,
    /// `tokenizer_config.json` or `chat_template.json`. Dropout is switched off. What differs from the files is in
    /// [`notices`](Self::notices).
    ///
    /// # Errors
    ///
    /// If there is no tokenizer, a file cannot be read, a setting is not understood, or a file gives a token
    /// another id than transformers does. A panic of the library that reads `tokenizer.json` is an error.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let file = Some(path.to_owned());
        let failed = |source: Failure| LoadError::Tokenizer { path: path.to_owned(), source };
        if is_gguf(path) {
            let read = guarded(|| gguf_tokenizer(path)).map_err(|error| failed(Box::new(error)))??;
            let GgufVocabulary { tokenizer, bos, eos, add_bos, chat_template, .. } = read;
            let special = SpecialTokens { bos, eos, pad: None };
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let chat_template = chat_template.map(|default| ChatSource { file: name, ..default.into() });
            let settings = TokenizerSettings {
                special,
                add_bos: Some(add_bos),
                chat_template,
                file,
                ..TokenizerSettings::default()
            };
            return Ok(Self::new(tokenizer, settings)?);
        }
        if is_llama2c(path) {
            let (bos, eos) = (Some(1), Some(2));
            let settings = TokenizerSettings {
                special: SpecialTokens { bos, eos, pad: None },
                add_bos: Some(true),
                file,
                ..TokenizerSettings::default()
            };
            let tokenizer = guarded(|| llama2c_tokenizer(path)).map_err(|error| failed(Box::new(error)))??;
            return Ok(Self::new(tokenizer, settings)?);
        }
        Self::of_folder(path, chat_template)
    }

    /// [`read`](Self::read) of a folder, with the chat template of transformers' processor: that of
    /// `processor_config.json`, `chat_template.json` or `chat_template.jinja`, else the tokenizer's.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_of_processor(folder: &Path) -> Result<Self, LoadError> {
        Self::of_folder(folder, processor_template)
    }

    fn of_folder(folder: &Path, template: FindTemplate) -> Result<Self, LoadError> {
        let path = folder.join("tokenizer.json");
        let alone = !path.exists();
        let outside = Outside::read(folder)?;
        let config = &outside.config;
        let file = if alone { Map::new() } else { document(&path)? };
        let class = Class::of(&outside, &file)?;
        let (path, mut file) = if alone {
            let looked_for = "`tokenizer.json`; or else `vocab.txt` with a `tokenizer_class` of BERT or DistilBERT, or \
                              `vocab.json` and `merges.txt` with one of GPT-2, RoBERTa or Qwen2";
            let missing = LoadError::Missing { path: folder.to_owned(), what: "tokenizer", looked_for };
            tokenizer_vocabulary::read(folder, class)?.ok_or(missing)?
        } else {
            (path, file)
        };
        tokenizer_limits::check(&path, &file)?;
        let mut notices = Vec::new();
        let dropout = file.get_mut("model").and_then(|model| model.get_mut("dropout")).map(Value::take);
        if let Some(dropout) = dropout.filter(|dropout| !dropout.is_null() && dropout.as_f64() != Some(0.0)) {
            notices.push(TokenizerNotice::Dropout { path: path.clone(), dropout: dropout.to_string() });
        }
        let padding = file.get("padding").and_then(|padding| padding["pad_token"].as_str()).map(str::to_owned);
        let mut unneeded = Vec::new();
        class.rebuild(&path, &mut file, &outside, if alone { &mut unneeded } else { &mut notices })?;
        let own = added_tokens(&path, file.remove("added_tokens").unwrap_or_default())?;
        let mut added = outside.added(&own, class)?;
        if let Some(padding) =
            padding.filter(|_| !added.named.contains_key("pad_token") && !config.is_null("pad_token"))
        {
            added.named.insert("pad_token".to_owned(), padding);
        }
        let before: &[(u32, AddedToken)] = if class == Class::AsIs { &own } else { &[] };
        let mut tokenizer = guarded(|| build(file, before, &added.tokens))
            .map_err(|error| Box::new(error) as Failure)
            .flatten()
            .map_err(|source| LoadError::Tokenizer { path: path.clone(), source })?;
        check_ids(&tokenizer, &path, before, &added, config)?;
        if let Some(processor) = class.post_processor(&tokenizer, &outside, alone)? {
            tokenizer.with_post_processor(Some(processor));
        }
        tokenizer.set_encode_special_tokens(config.flag("split_special_tokens", false)?);

        let token = |name: &str| {
            let text = added.named.get(&format!("{name}_token"));
            let number = || outside.model.get(&format!("{name}_token_id")).and_then(token_number);
            text.and_then(|text| tokenizer.token_to_id(text)).or_else(number)
        };
        let special = SpecialTokens { bos: token("bos"), eos: token("eos"), pad: token("pad") };
        ignored(&tokenizer, &outside, class, special, &mut notices)?;
        let inputs = config.get("model_input_names").and_then(Value::as_array);
        let segments = inputs.map_or(class.segments(), |names| names.iter().any(|name| name == "token_type_ids"));
        let settings = TokenizerSettings {
            special,
            add_bos: None,
            no_segments: !segments,
            chat_template: template(folder, config)?,
            named: Some(added.named.into_iter().collect()),
            file: Some(path),
            notices,
            config: config.map().clone(),
        };
        Ok(Self::new(tokenizer, settings)?)
    }
}

/// The tokenizer of a `tokenizer.json`, with added tokens of its own and from elsewhere.
pub(super) fn build(
    mut file: Map<String, Value>,
    own: &[(u32, AddedToken)],
    added: &[AddedToken],
) -> Result<Tokenizer, Failure> {
    let mut take = |name: &str| file.remove(name).unwrap_or_default();
    let version = take("version");
    if version != "1.0" {
        return Err(format!("its `version` is {version}, but only \"1.0\" can be read").into());
    }
    let mut model = take("model");
    let model = match model.get("type").and_then(Value::as_str) {
        // Without the copies that `ModelWrapper` makes of a large vocabulary.
        Some("BPE") => {
            model.as_object_mut().map(|model| model.remove("type"));
            ModelWrapper::BPE(serde_json::from_value(model)?)
        }
        _ => serde_json::from_value(model)?,
    };
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(serde_json::from_value::<Option<NormalizerWrapper>>(take("normalizer"))?)?;
    tokenizer.with_pre_tokenizer(serde_json::from_value::<Option<PreTokenizerWrapper>>(take("pre_tokenizer"))?);
    tokenizer.with_post_processor(serde_json::from_value::<Option<PostProcessorWrapper>>(take("post_processor"))?);
    tokenizer.with_decoder(serde_json::from_value::<Option<DecoderWrapper>>(take("decoder"))?);
    let growth = Growth::new(tokenizer.get_normalizer());
    let own = own.iter().map(|(_, token)| token);
    own.clone().chain(added).filter(|token| token.normalized).try_for_each(|token| growth.check(&token.content))?;
    tokenizer.add_tokens(own.cloned())?;
    tokenizer.add_tokens(added.iter().cloned())?;
    Ok(tokenizer)
}

/// Fails if a file gives an added token another id than it has.
fn check_ids(
    tokenizer: &Tokenizer,
    path: &Path,
    own: &[(u32, AddedToken)],
    added: &Added,
    config: &Fields,
) -> Result<(), LoadError> {
    let wrong = |id: u32, text: &str| tokenizer.token_to_id(text).filter(|&other| other != id);
    let refuse = |path: &Path, field: String, id: u32, text: &str, other: u32| LoadError::Field {
        path: path.to_owned(),
        field,
        found: format!("{id} for `{text}`"),
        expected: format!("{other}, the id that transformers gives it,"),
    };
    for (id, token) in own {
        if let Some(other) = wrong(*id, &token.content) {
            return Err(refuse(path, "added_tokens".to_owned(), *id, &token.content, other));
        }
    }
    for (id, text, file, field) in &added.ids {
        if let Some(other) = wrong(*id, text) {
            return Err(refuse(&config.path().with_file_name(file), field.clone(), *id, text, other));
        }
    }
    Ok(())
}

/// Notices settings that ask for something else than what is done, as in transformers 5.
fn ignored(
    tokenizer: &Tokenizer,
    outside: &Outside,
    class: Class,
    special: SpecialTokens,
    notices: &mut Vec<TokenizerNotice>,
) -> Result<(), LoadError> {
    let config = &outside.config;
    let mut push = |field: &str, because| {
        let found = config.get(field).map(Value::to_string).unwrap_or_default();
        let path = config.path().to_owned();
        notices.push(TokenizerNotice::Ignored { path, field: field.to_owned(), found, because });
    };
    let (before, after) = around(tokenizer.get_post_processor())?;
    for (field, token, tokens) in [("add_bos_token", special.bos, &before), ("add_eos_token", special.eos, &after)] {
        let added = token.is_some_and(|token| tokens.contains(&token));
        if config.optional_flag(field)?.is_some_and(|wanted| wanted != added) {
            push(field, "the post-processor decides, as in transformers 5");
        }
    }
    if config.text("truncation_side")?.is_some_and(|side| side == "left") {
        push("truncation_side", "long rows are cut at their end");
    }
    if class == Class::AsIs {
        let parts = serde_json::to_string(&(tokenizer.get_normalizer(), tokenizer.get_pre_tokenizer()));
        let parts = parts.unwrap_or_default().to_lowercase();
        for (field, traces) in [
            ("do_lower_case", &["\"lowercase\":true", "\"type\":\"lowercase\""][..]),
            (
                "add_prefix_space",
                &[
                    "\"add_prefix_space\":true",
                    "\"prepend_scheme\":\"always",
                    "\"prepend_scheme\":\"first",
                    "\"prepend\":",
                ],
            ),
        ] {
            let done = traces.iter().any(|trace| parts.contains(trace));
            if config.optional_flag(field)?.is_some_and(|wanted| wanted != done) {
                push(field, "`tokenizer.json` decides with a tokenizer of its class, as in transformers 5");
            }
        }
    }
    Ok(())
}

/// The file of a template alone.
const ALONE: &str = "chat_template.jinja";

/// The id of a special token; of several, the first.
fn token_number(value: &Value) -> Option<u32> {
    let value = value.as_array().map_or(Some(value), |several| several.first())?;
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// The chat templates, as transformers finds them: files, or else the settings.
fn chat_template(folder: &Path, config: &Fields) -> Result<Option<ChatSource>, LoadError> {
    let read = |name: &str| read_text(&folder.join(name));
    let (file, folder_of_more) = (ALONE, "additional_chat_templates");
    let more = |name: &str| read(&format!("{folder_of_more}/{name}.jinja"));
    let (alone, default, tool_use) = (read(file)?, more("default")?, more("tool_use")?);
    match (alone, default, tool_use) {
        (None, None, None) => {}
        (alone, None, tool_use) => return Ok(source(file, alone, tool_use)),
        (_, default, tool_use) => return Ok(source(&format!("{folder_of_more}/default.jinja"), default, tool_use)),
    }
    let Some(value) = config.get("chat_template") else {
        return in_json(folder, "chat_template.json");
    };
    Ok(source("tokenizer_config.json", default_of(value), named(value, "tool_use")))
}

/// The chat template of a processor. Conversations with tools have no other.
fn processor_template(folder: &Path, config: &Fields) -> Result<Option<ChatSource>, LoadError> {
    for file in ["processor_config.json", "chat_template.json"] {
        if let Some(found) = in_json(folder, file)? {
            return Ok(Some(found));
        }
    }
    match read_text(&folder.join(ALONE))? {
        Some(template) => Ok(source(ALONE, Some(template), None)),
        None => chat_template(folder, config),
    }
}

fn source(file: &str, default: Option<String>, tool_use: Option<String>) -> Option<ChatSource> {
    default.map(|default| ChatSource { file: file.to_owned(), default, tool_use })
}

/// The template in a file of settings, if there is such a file.
fn in_json(folder: &Path, file: &str) -> Result<Option<ChatSource>, LoadError> {
    let path = folder.join(file);
    let value: Value = if path.exists() { read_json(&path)? } else { Value::Null };
    Ok(source(file, value.get("chat_template").and_then(default_of), None))
}

/// Of several templates, which have names, the one for conversations.
fn default_of(value: &Value) -> Option<String> {
    text(Some(value)).or_else(|| named(value, "default"))
}

fn named(value: &Value, name: &str) -> Option<String> {
    match value {
        Value::Array(list) => text(list.iter().find(|entry| entry["name"] == name)?.get("template")),
        value => text(value.get(name)),
    }
}

fn read_text(path: &Path) -> Result<Option<String>, LoadError> {
    if !path.exists() {
        return Ok(None);
    }
    read_regular(path)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)))
        .map(Some)
        .map_err(|source| LoadError::File { path: path.to_owned(), source })
}

fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).map(str::to_owned)
}
