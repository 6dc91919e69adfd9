use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use super::chat_functions::{Date, to_json};
use crate::TokenizeError;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The speaker: `system`, `user`, `assistant` or another role that the chat template knows.
    pub role: String,
    /// The text; `None` (absent or `null`) if the message holds only something else, such as `tool_calls`.
    #[serde(default)]
    pub content: Option<String>,
    /// Other fields that a template may use. The keys of nested objects are in alphabetical order.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message with a role and a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), other: serde_json::Map::new() }
    }
}

/// A chat template: Jinja with the extensions of Hugging Face's libraries.
///
/// Blocks are trimmed. Available are Python's methods, `raise_exception`, `strftime_now` (the UTC date at which the
/// template was read) and `tojson` without HTML escapes. `{% generation %}` marks are ignored.
#[derive(Clone, Debug)]
pub(crate) struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos: Option<String>,
    eos: Option<String>,
    pad: Option<String>,
}

const NAME: &str = "chat";

impl ChatTemplate {
    pub(crate) fn new(
        source: &str,
        bos: Option<String>,
        eos: Option<String>,
        pad: Option<String>,
    ) -> Result<Self, TokenizeError> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let today = Date::of(SystemTime::now());
        environment.add_function("strftime_now", move |format: &str| today.format(format));
        environment.add_filter("tojson", |value: &Value, options: Kwargs| to_json(value, &options));
        environment.add_template_owned(NAME, without_generation_marks(source)).map_err(failed)?;
        Ok(Self { environment: Arc::new(environment), bos, eos, pad })
    }

    /// The conversation as text, and the byte ranges of the assistant's messages.
    pub(crate) fn conversation(&self, messages: &[Message]) -> Result<(String, Vec<Range<usize>>), TokenizeError> {
        let nothing =
            |message: &Message| message.content.is_none() && message.other.values().all(|value| value.is_null());
        if let Some(message) = messages.iter().position(nothing) {
            return Err(TokenizeError::NoContent { message });
        }
        let whole = self.render(messages, false)?;
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (message, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let before = self.render(&messages[..message], true)?;
            let after = self.render(&messages[..=message], false)?;
            if !(whole.starts_with(&after) && after.starts_with(&before)) {
                return Err(TokenizeError::UnstableTemplate { message });
            }
            spans.push(before.len()..after.len());
        }
        if spans.is_empty() {
            return Err(TokenizeError::NoAssistant { messages: messages.len() });
        }
        Ok((whole, spans))
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TokenizeError> {
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let values = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => add_generation_prompt,
            tools => Value::from(()),
            documents => Value::from(()),
            bos_token => self.bos.as_deref().unwrap_or_default(),
            eos_token => self.eos.as_deref().unwrap_or_default(),
            pad_token => self.pad.as_deref().unwrap_or_default(),
        };
        template.render(values).map_err(failed)
    }
}

fn failed(error: Error) -> TokenizeError {
    TokenizeError::ChatTemplate(Box::new(error))
}

/// The template with `{% generation %}` and `{% endgeneration %}` turned into an `if` that is always taken, which keeps
/// the trimming around them.
fn without_generation_marks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let tag = &rest[start..start + length + 2];
        result.push_str(&rest[..start]);
        let word = tag[2..tag.len() - 2].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => result.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => result.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => result.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    result.push_str(rest);
    result
}
