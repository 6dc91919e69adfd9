use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::fields::Fields;
use super::panics::guarded;
use super::pieces::QWEN2;
use super::tokenizer_outside::Outside;
use crate::{LoadError, TokenizerNotice};

/// A tokenizer class of transformers, as its version 5 loads it.
///
/// All but the first build their own normalizer and pre-tokenizer; of `tokenizer.json` they take the vocabulary, the
/// merges and the post-processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `tokenizer.json` as it is.
    AsIs,
    Bert,
    DistilBert,
    Roberta,
    XlmRoberta,
    Llama,
    Qwen2,
    Gpt2,
    /// Built from its vocabulary by [`ClipTokenizer::read`](crate::ClipTokenizer::read) alone.
    Clip,
}

const KNOWN: &str = "`PreTrainedTokenizerFast`, which uses `tokenizer.json` as it is, `BertTokenizer`, \
                     `DistilBertTokenizer`, `RobertaTokenizer`, `XLMRobertaTokenizer`, `LlamaTokenizer`, `Qwen2Tokenizer` or `GPT2Tokenizer`";

impl Class {
    /// The class that `AutoTokenizer` takes for a folder.
    pub(super) fn of(outside: &Outside, file: &Map<String, Value>) -> Result<Self, LoadError> {
        let model = outside.model.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let of_model = match model {
            "bert" => Some(Self::Bert),
            "roberta" => Some(Self::Roberta),
            "xlm-roberta" => Some(Self::XlmRoberta),
            "qwen2" => Some(Self::Qwen2),
            _ => None,
        };
        let named = match outside.config.text("tokenizer_class")? {
            Some(name) => Some((&outside.config, name)),
            None => outside.model.text("tokenizer_class")?.map(|name| (&outside.model, name)),
        };
        let Some((fields, name)) = named else {
            return Ok(of_model.unwrap_or(Self::AsIs));
        };
        let named = Self::named(&name, fields);
        Ok(match (model, of_model) {
            // Transformers has no class of its own for these models and reads the file.
            ("mistral", _) => Self::AsIs,
            // The classes that folders of these models name are known to be wrong.
            ("qwen2", _) => Self::Qwen2,
            _ => match named? {
                Self::Llama if has_type(file, "ByteLevel") => Self::AsIs,
                class => class,
            },
        })
    }

    fn named(name: &str, fields: &Fields) -> Result<Self, LoadError> {
        Ok(match name.strip_suffix("Fast").unwrap_or(name) {
            "PreTrainedTokenizer" | "TokenizersBackend" => Self::AsIs,
            "BertTokenizer" | "ElectraTokenizer" | "MobileBertTokenizer" => Self::Bert,
            "DistilBertTokenizer" => Self::DistilBert,
            "RobertaTokenizer" => Self::Roberta,
            "XLMRobertaTokenizer" => Self::XlmRoberta,
            "LlamaTokenizer" => Self::Llama,
            "Qwen2Tokenizer" => Self::Qwen2,
            "GPT2Tokenizer" => Self::Gpt2,
            _ => return Err(fields.refuse("tokenizer_class", &json!(name), KNOWN)),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::AsIs => "PreTrainedTokenizerFast",
            Self::Bert => "BertTokenizer",
            Self::DistilBert => "DistilBertTokenizer",
            Self::Roberta => "RobertaTokenizer",
            Self::XlmRoberta => "XLMRobertaTokenizer",
            Self::Llama => "LlamaTokenizer",
            Self::Qwen2 => "Qwen2Tokenizer",
            Self::Gpt2 => "GPT2Tokenizer",
            Self::Clip => "CLIPTokenizer",
        }
    }

    /// A special token that the class has without any setting.
    pub(super) fn own_token(self, name: &str) -> Option<&'static str> {
        Some(match (self, name) {
            (Self::Bert | Self::DistilBert, "unk_token") => "[UNK]",
            (Self::Bert | Self::DistilBert, "sep_token") => "[SEP]",
            (Self::Bert | Self::DistilBert, "pad_token") => "[PAD]",
            (Self::Bert | Self::DistilBert, "cls_token") => "[CLS]",
            (Self::Bert | Self::DistilBert, "mask_token") => "[MASK]",
            (Self::Roberta | Self::XlmRoberta | Self::Llama, "unk_token") => "<unk>",
            (Self::Roberta | Self::XlmRoberta | Self::Llama, "bos_token") => "<s>",
            (Self::Roberta | Self::XlmRoberta | Self::Llama, "eos_token") => "</s>",
            (Self::Roberta | Self::XlmRoberta, "cls_token") => "<s>",
            (Self::Roberta | Self::XlmRoberta, "sep_token") => "</s>",
            (Self::Roberta | Self::XlmRoberta, "pad_token") => "<pad>",
            (Self::Roberta | Self::XlmRoberta, "mask_token") => "<mask>",
            (Self::Qwen2 | Self::Gpt2, "unk_token" | "eos_token") | (Self::Qwen2, "pad_token") => "<|endoftext|>",
            (Self::Gpt2, "bos_token") => "<|endoftext|>",
            (Self::Clip, "unk_token" | "eos_token" | "pad_token") => "<|endoftext|>",
            (Self::Clip, "bos_token") => "<|startoftext|>",
            _ => return None,
        })
    }

    /// Whether its models have segments, unless a setting says so.
    pub(super) fn segments(self) -> bool {
        matches!(self, Self::AsIs | Self::Bert)
    }

    /// Replaces the parts of `tokenizer.json` that the class builds itself.
    pub(super) fn rebuild(
        self,
        path: &Path,
        file: &mut Map<String, Value>,
        outside: &Outside,
        notices: &mut Vec<TokenizerNotice>,
    ) -> Result<(), LoadError> {
        let config = &outside.config;
        let parts = match self {
            Self::AsIs | Self::Clip => return Ok(()),
            Self::Bert | Self::DistilBert => {
                let lowercase = config.flag("do_lower_case", true)?;
                let written = file.get("normalizer").and_then(|normalizer| normalizer.get("lowercase"));
                if let Some(found) =
                    written.filter(|&found| *found != lowercase && config.get("do_lower_case").is_none())
                {
                    notices.push(TokenizerNotice::Ignored {
                        path: path.to_owned(),
                        field: "normalizer.lowercase".to_owned(),
                        found: found.to_string(),
                        because: "`BertTokenizer` lower-cases unless `do_lower_case` is false, as in transformers",
                    });
                }
                Parts {
                    kind: "WordPiece",
                    normalizer: json!({
                        "type": "BertNormalizer", "clean_text": true, "lowercase": lowercase,
                        "handle_chinese_chars": config.flag("tokenize_chinese_chars", true)?,
                        "strip_accents": config.optional_flag("strip_accents")?,
                    }),
                    pre_tokenizer: json!({"type": "BertPreTokenizer"}),
                    decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
                    model: json!({
                        "unk_token": outside.named("unk_token", self)?.map(|token| token.content),
                        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                    }),
                }
            }
            Self::Roberta | Self::Gpt2 => {
                let prefix = config.flag("add_prefix_space", false)?;
                let bytes = bytes(prefix, true);
                Parts {
                    kind: "BPE",
                    normalizer: Value::Null,
                    pre_tokenizer: bytes,
                    decoder: bytes_decoder(),
                    model: bpe(false),
                }
            }
            Self::Qwen2 => {
                let split =
                    json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
                let bytes = bytes(config.flag("add_prefix_space", false)?, false);
                Parts {
                    kind: "BPE",
                    normalizer: json!({"type": "NFC"}),
                    pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [split, bytes]}),
                    decoder: bytes_decoder(),
                    model: bpe(false),
                }
            }
            Self::Llama => {
                let prefix = config.flag("add_prefix_space", true)?;
                let scheme = match (prefix, config.flag("legacy", false)?) {
                    (false, _) => "never",
                    (true, true) => "always",
                    (true, false) => "first",
                };
                let mut decoders = vec![
                    json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
                    json!({"type": "ByteFallback"}),
                    json!({"type": "Fuse"}),
                ];
                if prefix {
                    decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                }
                Parts {
                    kind: "BPE",
                    normalizer: Value::Null,
                    pre_tokenizer: metaspace(scheme, false),
                    decoder: json!({"type": "Sequence", "decoders": decoders}),
                    model: bpe(true),
                }
            }
            Self::XlmRoberta => {
                let scheme = if config.flag("add_prefix_space", true)? { "always" } else { "never" };
                Parts {
                    kind: "Unigram",
                    normalizer: file.get("normalizer").and_then(precompiled).cloned().unwrap_or_default(),
                    pre_tokenizer: json!({
                        "type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace(scheme, true)]
                    }),
                    decoder: metaspace(scheme, true),
                    model: json!({"unk_id": 3, "byte_fallback": false}),
                }
            }
        };
        let changed = parts.place(self, path, file)?;
        if !changed.is_empty() {
            let (path, class) = (path.to_owned(), self.name());
            notices.push(TokenizerNotice::Rebuilt { path, class, parts: changed });
        }
        Ok(())
    }
}

/// The parts of `tokenizer.json` that a class builds itself.
struct Parts {
    kind: &'static str,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

impl Parts {
    /// Puts the parts in place, and names those that give other tokens than what they replace.
    fn place(self, class: Class, path: &Path, file: &mut Map<String, Value>) -> Result<Vec<&'static str>, LoadError> {
        let refuse = |field: &str, found: &Value, expected: String| LoadError::Field {
            path: path.to_owned(),
            field: field.to_owned(),
            found: found.to_string(),
            expected,
        };
        let of_class = |what: &str| format!("{what} with a tokenizer of the class `{}`", class.name());
        let mut changed = Vec::new();
        let old = file.insert("normalizer".to_owned(), self.normalizer.clone()).unwrap_or_default();
        // What `BertNormalizer` does is set by the class in every version.
        let settable = matches!(class, Class::Bert | Class::DistilBert)
            && old["type"] == "BertNormalizer"
            && old["clean_text"] == true;
        if !settable
            && canonical::<NormalizerWrapper>(&old, "normalizers")
                != canonical::<NormalizerWrapper>(&self.normalizer, "normalizers")
        {
            changed.push("normalizer");
        }
        let old = file.insert("pre_tokenizer".to_owned(), self.pre_tokenizer.clone()).unwrap_or_default();
        let [mut old, new] =
            [old, self.pre_tokenizer].map(|value| canonical::<PreTokenizerWrapper>(&value, "pretokenizers"));
        if matches!(class, Class::Roberta | Class::Gpt2) && old["type"] == "ByteLevel" {
            // So is this setting.
            old["add_prefix_space"] = new["add_prefix_space"].clone();
        }
        if old != new {
            changed.push("pre-tokenizer");
        }
        file.insert("decoder".to_owned(), self.decoder);
        let Some(model) = file.get_mut("model").and_then(Value::as_object_mut) else {
            return Err(LoadError::FieldMissing { path: path.to_owned(), field: "model".to_owned() });
        };
        let kind = model.entry("type").or_insert_with(|| json!(self.kind));
        if kind != self.kind {
            return Err(refuse("model.type", kind, of_class(self.kind)));
        }
        if self.kind == "WordPiece"
            && let Some(unknown) = self.model.get("unk_token").and_then(Value::as_str)
            && model.get("vocab").is_none_or(|vocab| vocab.get(unknown).is_none())
        {
            return Err(refuse("unk_token", &json!(unknown), "a token of the vocabulary".to_owned()));
        }
        if class == Class::XlmRoberta
            && let Some(id) = model.get("unk_id").filter(|&id| *id != 3)
        {
            return Err(refuse("model.unk_id", id, of_class("3")));
        }
        let settings = self.model.as_object().cloned().unwrap_or_default();
        for (name, value) in settings {
            let old = model.insert(name.clone(), value.clone()).unwrap_or_default();
            let absent = |value: &Value| value.is_null() || *value == false || *value == "";
            let same = old == value || absent(&old) && absent(&value);
            // Text has no unknown parts where every byte is a token, and a mark of words is the class's affair.
            if !same && !matches!(name.as_str(), "unk_token" | "fuse_unk") && changed.last() != Some(&"model's setting")
            {
                changed.push("model's setting");
            }
        }
        Ok(changed)
    }
}

/// The form of a part in which equal parts are equal.
fn canonical<T: serde::Serialize + serde::de::DeserializeOwned>(part: &Value, inner: &str) -> Value {
    let read =
        guarded(|| serde_json::from_value::<Option<T>>(part.clone()).ok().and_then(|p| serde_json::to_value(p).ok()));
    let mut value = read.ok().flatten().unwrap_or_else(|| part.clone());
    let only = match value.get(inner).and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => Some(Value::Null),
        Some([only]) => Some(only.clone()),
        _ => None,
    };
    value = only.unwrap_or(value);
    let steps = value.get_mut(inner).and_then(Value::as_array_mut).map(|steps| steps.iter_mut().collect::<Vec<_>>());
    match steps {
        Some(steps) => steps.into_iter().for_each(without_offsets),
        None => without_offsets(&mut value),
    }
    value
}

/// Drops what decides only offsets.
fn without_offsets(step: &mut Value) {
    step.as_object_mut().map(|step| step.remove("trim_offsets"));
}

fn bytes(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex})
}

fn bytes_decoder() -> Value {
    bytes(true, true)
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
}

/// The settings of byte pairs; `pieces` for those of SentencePiece.
fn bpe(pieces: bool) -> Value {
    json!({
        "unk_token": null, "fuse_unk": pieces, "byte_fallback": pieces, "ignore_merges": false,
        "continuing_subword_prefix": null, "end_of_word_suffix": null,
    })
}

/// The map of characters in a normalizer.
fn precompiled(normalizer: &Value) -> Option<&Value> {
    match normalizer.get("normalizers").and_then(Value::as_array) {
        Some(list) => list.iter().find_map(precompiled),
        None => (normalizer["type"] == "Precompiled").then_some(normalizer),
    }
}

/// Whether a part other than the vocabulary is of this type.
fn has_type(file: &Map<String, Value>, name: &str) -> bool {
    let name = format!("{:?}", name);
    let parts = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];
    parts.iter().filter_map(|part| file.get(*part)).any(|part| part.to_string().contains(&name))
}
