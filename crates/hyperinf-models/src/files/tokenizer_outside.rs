use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::fields::Fields;
use super::load::read_json;
use super::tokenizer_class::Class;
use crate::LoadError;

/// The named special tokens, in the order in which transformers adds them.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// The settings of a tokenizer outside `tokenizer.json`.
pub(super) struct Outside {
    /// `tokenizer_config.json`.
    pub(super) config: Fields,
    /// `special_tokens_map.json`.
    map: Fields,
    /// `added_tokens.json`.
    added: Option<Fields>,
    /// `config.json` of the model.
    pub(super) model: Fields,
}

/// The tokens that transformers adds to a tokenizer after it was read.
#[derive(Default)]
pub(super) struct Added {
    /// All of them, in order.
    pub(super) tokens: Vec<AddedToken>,
    /// The ids that a file gives to some of them: id, text, the file's name and the setting.
    pub(super) ids: Vec<(u32, String, &'static str, String)>,
    /// The named special tokens.
    pub(super) named: BTreeMap<String, String>,
}

impl Outside {
    pub(super) fn read(folder: &Path) -> Result<Self, LoadError> {
        let read = |name: &str| {
            let path = folder.join(name);
            if path.exists() { Fields::read(&path) } else { Ok(Fields::empty(&path)) }
        };
        let added = folder.join(ADDED).exists().then(|| read(ADDED)).transpose()?;
        Ok(Self { config: read(CONFIG)?, map: read(MAP)?, added, model: read("config.json")? })
    }

    /// A named special token, or the class's own if no file mentions it.
    pub(super) fn named(&self, name: &str, class: Class) -> Result<Option<AddedToken>, LoadError> {
        let (fields, value) = match self.legacy().then(|| self.map.get(name)).flatten() {
            Some(value) => (&self.map, Some(value)),
            None => (&self.config, self.config.get(name)),
        };
        match value {
            Some(value) => token(value, true).map(Some).ok_or_else(|| fields.refuse(name, value, "a token")),
            None if self.config.is_null(name) => Ok(None),
            None => Ok(class.own_token(name).map(|text| AddedToken::from(text, true))),
        }
    }

    /// What transformers adds, given the added tokens of `tokenizer.json`.
    pub(super) fn added(&self, file: &[(u32, AddedToken)], class: Class) -> Result<Added, LoadError> {
        let mut named: Vec<(String, AddedToken)> = Vec::new();
        for name in NAMED {
            named.extend(self.named(name, class)?.map(|token| (name.to_owned(), token)));
        }
        let own = |name: &str| name.ends_with("_token") && !NAMED.contains(&name);
        let named_elsewhere = self.config.entries().filter(|(name, _)| own(name));
        named.extend(named_elsewhere.filter_map(|(name, value)| Some((name.to_owned(), token(value, true)?))));
        let extra = self.extra(&mut named)?;

        let special: HashSet<&str> = named.iter().map(|(_, token)| token).chain(&extra).map(text).collect();
        let mut added = Added::default();
        let mut listed: BTreeMap<u32, AddedToken> = BTreeMap::new();
        if let Some(list) = self.config.get("added_tokens_decoder") {
            let list = list.as_object().ok_or_else(|| self.config.refuse("added_tokens_decoder", list, "an object"))?;
            for (id, value) in list {
                let field = format!("added_tokens_decoder.{id}");
                let refuse = |expected| self.config.refuse(&field, value, expected);
                let number: u32 = id.parse().map_err(|_| refuse("an id as its name"))?;
                let token = value.is_object().then(|| token(value, false)).flatten();
                let token = token.ok_or_else(|| refuse("an object with `content` and flags"))?;
                added.ids.push((number, token.content.clone(), CONFIG, field));
                listed.insert(number, token);
            }
        } else {
            let older = self.added.as_ref();
            for (text, id) in older.iter().flat_map(|fields| fields.entries()) {
                let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let Some(number) = number else { return Err(older.unwrap_or(&self.config).refuse(text, id, "an id")) };
                added.ids.push((number, text.to_owned(), ADDED, text.to_owned()));
                listed.insert(number, AddedToken::from(text, special.contains(text)));
            }
            listed.extend(file.iter().cloned());
        }
        let names: HashSet<&str> = named.iter().map(|(_, token)| text(token)).collect();
        let mut all: Vec<AddedToken> = listed.into_values().collect();
        all.iter_mut().for_each(|token| token.special |= names.contains(token.content.as_str()));
        let mut known: HashSet<String> = all.iter().map(|token| token.content.clone()).collect();
        if class == Class::AsIs {
            known.extend(file.iter().map(|(_, token)| token.content.clone()));
        }
        // Of one token with several sets of flags, the last ones count.
        let more = named.iter().map(|(_, token)| token).chain(&extra).filter(|token| !known.contains(&token.content));
        all.extend(more.map(|token| AddedToken { special: true, ..token.clone() }));
        if class == Class::Qwen2 {
            let special = named.iter().map(|(_, token)| token).chain(&extra);
            let again: Vec<AddedToken> = special.map(|token| AddedToken::from(&token.content, true)).collect();
            all.extend(again);
        }
        added.tokens = all;
        added.named = named.into_iter().map(|(name, token)| (name, token.content)).collect();
        Ok(added)
    }

    /// The special tokens without a name; those with one join `named`.
    fn extra(&self, named: &mut Vec<(String, AddedToken)>) -> Result<Vec<AddedToken>, LoadError> {
        let nonempty = |value: &&Value| !matches!(value, Value::Array(list) if list.is_empty());
        let (first, second) = ("extra_special_tokens", "additional_special_tokens");
        let of = |fields: &'_ Fields, name: &'static str| {
            fields.get(name).filter(nonempty).map(|value| (name, value.clone()))
        };
        let mut found = of(&self.config, first).or_else(|| of(&self.config, second));
        let mut fields = &self.config;
        if self.legacy() && found.is_none() {
            found = of(&self.map, first).or_else(|| of(&self.map, second));
            fields = &self.map;
        }
        let Some((name, value)) = found else { return Ok(Vec::new()) };
        let refuse = || fields.refuse(name, &value, "a list of tokens, or an object of them");
        match &value {
            Value::Array(list) => list.iter().map(|value| token(value, true).ok_or_else(refuse)).collect(),
            Value::Object(map) => {
                for (name, value) in map {
                    named.push((name.clone(), token(value, true).ok_or_else(refuse)?));
                }
                Ok(Vec::new())
            }
            _ => Err(refuse()),
        }
    }

    /// Whether the files are of the older form, in which `tokenizer_config.json` does not list the added tokens.
    fn legacy(&self) -> bool {
        self.config.get("added_tokens_decoder").is_none()
    }
}

fn text(token: &AddedToken) -> &str {
    &token.content
}

/// A token that is written as a text or as an object with its properties.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, true));
    }
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special);
    Some(AddedToken {
        content: value.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}

/// The added tokens of a `tokenizer.json` with the ids that it gives them.
pub(super) fn added_tokens(path: &Path, value: Value) -> Result<Vec<(u32, AddedToken)>, LoadError> {
    #[derive(serde::Deserialize)]
    struct Entry {
        id: u32,
        #[serde(flatten)]
        token: AddedToken,
    }
    if value.is_null() {
        return Ok(Vec::new());
    }
    let list: Vec<Entry> =
        serde_json::from_value(value).map_err(|source| LoadError::Json { path: path.to_owned(), source })?;
    Ok(list.into_iter().map(|entry| (entry.id, entry.token)).collect())
}

/// The JSON object in a `tokenizer.json`.
pub(super) fn document(path: &Path) -> Result<Map<String, Value>, LoadError> {
    read_json(path)
}
