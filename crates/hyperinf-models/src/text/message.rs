mod images;

use serde::de::{Deserialize, Deserializer, Error};

use crate::Json;

/// One message of a conversation: its fields in the order of the file, as the chat template gets them.
///
/// | field | meaning |
/// |---|---|
/// | `role` | the speaker: `system`, `user`, `assistant` or another role that the template knows |
/// | `content` | the text, or a list of parts `{"type": "text", "text": …}`, or nothing next to other fields |
/// | `weight` | 0: an assistant's message that is no part of the loss; 1: the default |
/// | `train`, `training` | `false`: no part of the loss |
/// | others | for the template: `tool_calls`, `name`, `reasoning_content`, … |
///
/// A field that is `null` counts as absent, as in transformers. ShareGPT's `from` and `value` become `role` and
/// `content`: `human` is `user`, `gpt` and `chatgpt` are `assistant`, `observation` is `tool`; `user`, `assistant`,
/// `system` and `tool` stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    fields: Vec<(String, Json)>,
    role: String,
    scored: bool,
}

/// Why something is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not an object.
    #[error("it is {found}, expected an object with `role` and `content`")]
    NotObject {
        /// The type found.
        found: &'static str,
    },
    /// A field is missing.
    #[error("`{field}` is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field holds a value of another type.
    #[error("`{field}` holds {found}, expected {expected}")]
    Type {
        /// The field.
        field: String,
        /// The type found.
        found: &'static str,
        /// The type expected.
        expected: &'static str,
    },
    /// Both forms of a message at once.
    #[error("it has both `role` and `from`")]
    TwoForms,
    /// A ShareGPT message of an unknown speaker.
    #[error("`from` is `{from}`, expected {}", SPEAKERS.map(|(from, _)| from).join(", "))]
    Speaker {
        /// The speaker.
        from: String,
    },
    /// A part of the content that is not a text.
    #[error(
        "part {part} of `content` is of type `{kind}`: only parts of type `text` are supported, and of type `image` where the model takes images"
    )]
    Part {
        /// The part, from 0.
        part: usize,
        /// Its type.
        kind: String,
    },
    /// A weight other than 0 and 1.
    #[error("`weight` is {weight}: only 0 and 1 are supported")]
    Weight {
        /// The weight.
        weight: String,
    },
    /// A field that would change the loss in a way that is not supported.
    #[error("`{field}` is not supported: mark a message that is no part of the loss with `weight` 0")]
    Mark {
        /// The field.
        field: String,
    },
}

/// ShareGPT's speakers and their roles.
const SPEAKERS: [(&str, &str); 9] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("assistant", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("observation", "tool"),
    ("function_response", "tool"),
];

/// Marks of other programs whose meaning differs from one to the next.
const UNCLEAR: [&str; 9] = [
    "train_detail",
    "training_detail",
    "trainable",
    "loss",
    "loss_mask",
    "loss_weight",
    "compute_loss",
    "mask",
    "masked",
];

impl Message {
    /// A message with a role and a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let role = role.into();
        let fields =
            vec![("role".to_owned(), Json::String(role.clone())), ("content".to_owned(), Json::String(content.into()))];
        Self { fields, role, scored: true }
    }

    /// The message of an object.
    ///
    /// # Errors
    ///
    /// If it is not one.
    pub fn from_json(json: &Json) -> Result<Self, MessageError> {
        Self::of_parts(json, &["text"])
    }

    /// The message of an object; parts of its content are of these types.
    fn of_parts(json: &Json, kinds: &[&str]) -> Result<Self, MessageError> {
        let Json::Object(pairs) = json else {
            return Err(MessageError::NotObject { found: json.type_name() });
        };
        let mut fields: Vec<(String, Json)> = pairs.iter().filter(|(_, value)| *value != Json::Null).cloned().collect();
        let has = |name: &str| pairs.iter().any(|(key, _)| key == name);
        if has("from") && !has("role") {
            share_gpt(&mut fields)?;
        } else if has("from") && has("value") {
            return Err(MessageError::TwoForms);
        }
        let get = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let role = match get("role") {
            Some(Json::String(role)) => role.clone(),
            Some(other) => return Err(wrong("role", other, "a text")),
            None => return Err(MessageError::Missing { field: "role" }),
        };
        match get("content") {
            Some(Json::String(_)) => {}
            Some(Json::Array(parts)) => check_parts(parts, kinds)?,
            Some(other) => return Err(wrong("content", other, "a text or a list of parts")),
            None if !has("content") && !has("value") && get("tool_calls").is_none() => {
                return Err(MessageError::Missing { field: "content" });
            }
            None if fields.len() == 1 => return Err(MessageError::Missing { field: "content" }),
            None => {}
        }
        let scored = is_scored(&fields)?;
        Ok(Self { fields, role, scored })
    }

    /// The speaker.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Its fields in order, without those that are `null`.
    pub fn fields(&self) -> &[(String, Json)] {
        &self.fields
    }

    /// A field.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Whether it is part of the loss, if it is the assistant's.
    pub fn is_scored(&self) -> bool {
        self.scored
    }

    /// What it says, for people: its text, or the texts of its parts.
    pub fn text(&self) -> String {
        match self.get("content") {
            Some(Json::String(text)) => text.clone(),
            Some(Json::Array(parts)) => {
                parts.iter().filter_map(|part| part.get("text").and_then(Json::as_str)).collect::<Vec<_>>().join("\n")
            }
            _ => String::new(),
        }
    }

    /// As the template gets it: a thought is there under the names that templates read, as in transformers.
    pub(crate) fn for_template(&self) -> Json {
        let mut fields = self.fields.clone();
        let names = ["reasoning_content", "thinking", "reasoning"];
        if let Some(thought) = names.iter().find_map(|name| self.get(name)) {
            // The first key, even if the message has one of its own.
            let own = fields.iter().position(|(key, _)| key == "thinking").map(|at| fields.remove(at).1);
            fields.insert(0, ("thinking".to_owned(), own.unwrap_or_else(|| thought.clone())));
            match fields.iter_mut().find(|(key, _)| key == names[0]) {
                Some((_, value)) => *value = thought.clone(),
                None => fields.push((names[0].to_owned(), thought.clone())),
            }
        }
        Json::Object(fields)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(&Json::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn wrong(field: &str, value: &Json, expected: &'static str) -> MessageError {
    MessageError::Type { field: field.to_owned(), found: value.type_name(), expected }
}

fn share_gpt(fields: &mut [(String, Json)]) -> Result<(), MessageError> {
    for (key, value) in fields {
        match (key.as_str(), &mut *value) {
            ("from", Json::String(from)) => {
                let known = SPEAKERS.iter().find(|(speaker, _)| speaker == from);
                let (_, role) = known.ok_or_else(|| MessageError::Speaker { from: from.clone() })?;
                (*key, *value) = ("role".to_owned(), Json::String((*role).to_owned()));
            }
            ("from", other) => return Err(wrong("from", other, "a text")),
            ("value", _) => *key = "content".to_owned(),
            _ => {}
        }
    }
    Ok(())
}

fn check_parts(parts: &[Json], kinds: &[&str]) -> Result<(), MessageError> {
    for (part, value) in parts.iter().enumerate() {
        let kind = match value.get("type") {
            Some(Json::String(kind)) => kind.clone(),
            _ => return Err(wrong(&format!("content[{part}]"), value, "an object with a `type`")),
        };
        if !kinds.contains(&kind.as_str()) {
            return Err(MessageError::Part { part, kind });
        }
        if kind == "text" && value.get("text").and_then(Json::as_str).is_none() {
            let found = value.get("text").map_or("nothing", Json::type_name);
            return Err(MessageError::Type { field: format!("content[{part}].text"), found, expected: "a text" });
        }
    }
    Ok(())
}

/// Whether marks that are known say that a message counts.
fn is_scored(fields: &[(String, Json)]) -> Result<bool, MessageError> {
    let mut scored = true;
    for (key, value) in fields {
        match key.as_str() {
            "weight" => {
                let Json::Number(number) = value else {
                    return Err(wrong(key, value, "0 or 1"));
                };
                match number.as_f64() {
                    Some(0.0) => scored = false,
                    Some(1.0) => {}
                    _ => return Err(MessageError::Weight { weight: number.to_string() }),
                }
            }
            "train" | "training" => match value {
                Json::Bool(counts) => scored &= counts,
                other => return Err(wrong(key, other, "true or false")),
            },
            key if UNCLEAR.contains(&key) => return Err(MessageError::Mark { field: key.to_owned() }),
            _ => {}
        }
    }
    Ok(scored)
}
