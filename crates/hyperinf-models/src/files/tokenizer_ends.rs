use serde_json::{Map, Value, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::tokenizer_class::Class;
use super::tokenizer_outside::Outside;
use crate::LoadError;

impl Class {
    /// The post-processor that the class builds itself, for a tokenizer with all its tokens; `alone`: without
    /// `tokenizer.json`.
    pub(super) fn post_processor(
        self,
        tokenizer: &Tokenizer,
        outside: &Outside,
        alone: bool,
    ) -> Result<Option<PostProcessorWrapper>, LoadError> {
        let token = |name: &str| {
            let text = outside.named(name, self)?.map(|token| token.content).unwrap_or_default();
            let id = tokenizer.token_to_id(&text);
            id.map(|id| (text, id)).ok_or_else(|| outside.config.absent(name))
        };
        let special = |text: &str, segment| json!({"SpecialToken": {"id": text, "type_id": segment}});
        let text = |id, segment| json!({"Sequence": {"id": id, "type_id": segment}});
        let known = |tokens: &[&(String, u32)]| -> Map<String, Value> {
            tokens.iter().map(|(text, id)| (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}))).collect()
        };
        let value = match self {
            Self::Qwen2 | Self::Gpt2 if alone => {
                let wanted = |setting: &str, name: &str| {
                    let wanted = outside.config.flag(setting, false)? && outside.named(name, self)?.is_some();
                    wanted.then(|| token(name)).transpose()
                };
                let (bos, eos) = (wanted("add_bos_token", "bos_token")?, wanted("add_eos_token", "eos_token")?);
                let around = |id, segment| {
                    let [first, last] = [&bos, &eos].map(|end| end.as_ref().map(|(text, _)| special(text, segment)));
                    first.into_iter().chain([text(id, segment)]).chain(last).collect::<Vec<_>>()
                };
                let pair = [around("A", 0), around("B", 1)].concat();
                let known = known(&[&bos, &eos].into_iter().flatten().collect::<Vec<_>>());
                json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": known})
            }
            Self::AsIs | Self::Llama | Self::Qwen2 | Self::Gpt2 | Self::Clip => return Ok(None),
            Self::Bert | Self::DistilBert => {
                let (cls, sep) = (token("cls_token")?, token("sep_token")?);
                let single = [special(&cls.0, 0), text("A", 0), special(&sep.0, 0)];
                let pair = [&single[..], &[text("B", 1), special(&sep.0, 1)]].concat();
                json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known(&[&cls, &sep])})
            }
            Self::Roberta => json!({
                "type": "RobertaProcessing", "sep": token("sep_token")?, "cls": token("cls_token")?,
                "trim_offsets": outside.config.flag("trim_offsets", true)?,
                "add_prefix_space": outside.config.flag("add_prefix_space", false)?,
            }),
            Self::XlmRoberta => {
                let (bos, eos) = (token("bos_token")?, token("eos_token")?);
                let single = [special(&bos.0, 0), text("A", 0), special(&eos.0, 0)];
                let pair = [&single[..], &[special(&eos.0, 0), text("B", 0), special(&eos.0, 0)]].concat();
                json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known(&[&bos, &eos])})
            }
        };
        let path = outside.config.path().to_owned();
        serde_json::from_value(value).map(Some).map_err(|source| LoadError::Json { path, source })
    }
}
