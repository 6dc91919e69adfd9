use serde_json::{Map, Value, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::tokenizer::TextTokenizer;
use crate::{TokenizeError, TokenizerNotice};

/// What [`TextTokenizer::to_files`] writes besides the tokenizer.
#[derive(Clone, Debug, Default)]
pub(super) struct Saved {
    /// The settings of `tokenizer_config.json`.
    pub(super) config: Map<String, Value>,
    /// The chat template.
    pub(super) template: Option<String>,
    /// The chat template of conversations with tools, if it is another.
    pub(super) tool_use: Option<String>,
    /// The special tokens by name, if they are known.
    pub(super) named: Option<Vec<(String, String)>>,
}

/// The files of a tokenizer's folder, in the order in which [`TextTokenizer::to_files`] gives them.
pub const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// Settings that a written tokenizer no longer needs: the files have their effect in them.
const DROPPED: [&str; 11] = [
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "auto_map",
    "backend",
    "chat_template",
    "do_lower_case",
    "fast_tokenizer_files",
    "legacy",
    "strip_accents",
    "tokenize_chinese_chars",
];

impl TextTokenizer {
    /// The tokenizer as the files of a folder, by name: [`TextTokenizer::read`] and transformers make the same tokens
    /// from them, whatever the tokenizer was read from. The last file, the chat template, may be missing.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot be written as JSON.
    pub fn to_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, TokenizeError> {
        let mut config = self.saved.config.clone();
        DROPPED.iter().for_each(|name| drop(config.remove(*name)));
        config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        let special = self.special();
        let read = self.chat_variables().unwrap_or_default();
        for (name, token) in [("bos_token", special.bos), ("eos_token", special.eos), ("pad_token", special.pad)] {
            // A template that had no such token must not get one.
            let known = self.saved.named.is_none() || !read.contains(name);
            let value = token.filter(|_| known).and_then(|token| self.tokenizer.id_to_token(token));
            config.insert(name.to_owned(), value.map_or(Value::Null, Value::String));
        }
        let named = self.saved.named.iter().flatten().filter(|(name, _)| name.ends_with("_token"));
        config.extend(named.map(|(name, text)| (name.clone(), json!(text))));
        if !self.segments {
            config.insert("model_input_names".to_owned(), json!(["input_ids", "attention_mask"]));
        }
        // Several templates are a list of the settings.
        let named = |name: &str, template: &Option<String>| json!({ "name": name, "template": template });
        if self.saved.tool_use.is_some() {
            let list = [named("default", &self.saved.template), named("tool_use", &self.saved.tool_use)];
            config.insert("chat_template".to_owned(), json!(list));
        }
        let failed = |error: serde_json::Error| TokenizeError::Tokenizer(Box::new(error));
        let mut config = serde_json::to_vec_pretty(&config).map_err(failed)?;
        config.push(b'\n');
        let [tokenizer, settings, chat] = TOKENIZER_FILES;
        let mut files = vec![(tokenizer, self.json()?.into_bytes()), (settings, config)];
        let alone = self.saved.template.as_ref().filter(|_| self.saved.tool_use.is_none());
        files.extend(alone.map(|template| (chat, template.clone().into_bytes())));
        Ok(files)
    }

    /// Notices that this tokenizer was used rather than another one, if they differ.
    ///
    /// # Errors
    ///
    /// If a tokenizer cannot be written as JSON.
    pub fn compare(&mut self, other: &Self) -> Result<(), TokenizeError> {
        let tokens = self.special() != other.special()
            || self.segments != other.segments
            || self.prefix != other.prefix
            || self.suffix != other.suffix
            || self.tokenizer.get_encode_special_tokens() != other.tokenizer.get_encode_special_tokens()
            || self.json()? != other.json()?;
        let template = (&self.saved.template, &self.saved.tool_use) != (&other.saved.template, &other.saved.tool_use);
        if tokens || template {
            let path = |tokenizer: &Self| tokenizer.file.clone().unwrap_or_default();
            let (used, other) = (path(self), path(other));
            self.notices.push(TokenizerNotice::Chosen { used, other, tokens, template });
        }
        Ok(())
    }

    /// The tokenizer with its post-processor, as in `tokenizer.json`.
    fn json(&self) -> Result<String, TokenizeError> {
        let mut tokenizer: Tokenizer = self.tokenizer.clone();
        tokenizer.with_post_processor(self.post_processor.clone().or_else(|| self.template()));
        tokenizer.to_string(false).map_err(TokenizeError::Tokenizer)
    }

    /// A post-processor for tokens around a text that did not come from one.
    fn template(&self) -> Option<PostProcessorWrapper> {
        let token = |&id: &u32| (id, self.tokenizer.id_to_token(id).unwrap_or_default());
        let (before, after): (Vec<_>, Vec<_>) =
            (self.prefix.iter().map(token).collect(), self.suffix.iter().map(token).collect());
        if before.is_empty() && after.is_empty() {
            return None;
        }
        let special = |(_, text): &(u32, String)| json!({"SpecialToken": {"id": text, "type_id": 0}});
        let around = |id: &str| {
            let text = json!({"Sequence": {"id": id, "type_id": 0}});
            before.iter().map(special).chain([text]).chain(after.iter().map(special)).collect::<Vec<_>>()
        };
        let known: Map<String, Value> = before
            .iter()
            .chain(&after)
            .map(|(id, text)| (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]})))
            .collect();
        let single = around("A");
        let pair = [single.clone(), around("B")].concat();
        serde_json::from_value(json!({
            "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known
        }))
        .ok()
    }
}
