use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::message::Message;
use crate::template::{Rendered, Template, TemplateError, python_repr};
use crate::{Json, TokenizeError};

/// The chat templates of a tokenizer, in Jinja.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatSource {
    /// The file that holds them, for error messages.
    pub file: String,
    /// The template of conversations.
    pub default: String,
    /// The template of conversations with tools, if it is another.
    pub tool_use: Option<String>,
}

impl From<String> for ChatSource {
    /// A template of an unknown file.
    fn from(default: String) -> Self {
        Self { file: "chat template".to_owned(), default, tool_use: None }
    }
}

/// A conversation, and what its chat template may read besides the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages, at least one.
    pub messages: Vec<Message>,
    /// How many of the first messages are the prompt: all after them is scored, whoever says it. `None`: the
    /// assistant's messages are scored.
    pub prompt: Option<usize>,
    /// The descriptions of tools.
    pub tools: Option<Json>,
    /// Documents.
    pub documents: Option<Json>,
    /// More variables, such as `enable_thinking`.
    pub variables: Vec<(String, Json)>,
}

impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }
}

/// Chat templates that were read.
#[derive(Clone, Debug)]
pub(crate) struct ChatTemplate {
    file: String,
    default: Arc<Template>,
    tool_use: Option<Result<Arc<Template>, TemplateError>>,
    /// The special tokens by name.
    special: Vec<(String, Json)>,
    /// The limit that a rendering went over: the next ones fail at once, so that many rows take no longer than one.
    spent: Arc<OnceLock<TemplateError>>,
}

/// A text that no conversation contains.
const PLACEHOLDER: &str = "\u{e000}";

/// Variables that transformers sets itself, and names that its function `apply_chat_template` takes for something else.
const RESERVED: [&str; 16] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "max_length",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
];

/// A conversation and its template.
struct Writer<'a> {
    chat: &'a ChatTemplate,
    template: &'a Template,
    conversation: &'a Conversation,
}

impl ChatTemplate {
    pub(crate) fn new(source: &ChatSource, special: Vec<(String, Json)>) -> Result<Self, TokenizeError> {
        let parse = |source: &str| Template::parse(source).map(Arc::new);
        let failed = |source_error| TokenizeError::ChatTemplate { file: source.file.clone(), source: source_error };
        Ok(Self {
            file: source.file.clone(),
            default: parse(&source.default).map_err(failed)?,
            tool_use: source.tool_use.as_deref().map(parse),
            special,
            spent: Arc::default(),
        })
    }

    /// The variables that the templates read and do not set.
    pub(crate) fn variables(&self) -> BTreeSet<String> {
        let more = self.tool_use.iter().flatten().flat_map(|template| &template.variables);
        self.default.variables.iter().chain(more).cloned().collect()
    }

    /// The conversation as text, and the byte ranges that are scored.
    pub(crate) fn conversation(
        &self,
        conversation: &Conversation,
    ) -> Result<(String, Vec<Range<usize>>), TokenizeError> {
        let writer = self.writer(conversation)?;
        let whole = writer.whole()?;
        let spans = match conversation.prompt {
            Some(prompt) => vec![writer.completion(prompt, &whole.text)?],
            None if writer.template.has_marks => writer.marked(&whole)?,
            None => writer.answers(&whole.text)?,
        };
        Ok((whole.text, spans))
    }

    /// The conversation as text; with `prompt`, up to where an answer would begin.
    pub(crate) fn text(&self, conversation: &Conversation, prompt: bool) -> Result<String, TokenizeError> {
        Ok(self.writer(conversation)?.render(&conversation.messages, prompt)?.text)
    }

    fn writer<'a>(&'a self, conversation: &'a Conversation) -> Result<Writer<'a>, TokenizeError> {
        let template = match &self.tool_use {
            Some(Ok(template)) if conversation.tools.is_some() => template,
            Some(Err(error)) if conversation.tools.is_some() => return Err(self.failed(error.clone())),
            _ => &self.default,
        };
        Ok(Writer { chat: self, template, conversation })
    }

    fn failed(&self, source: TemplateError) -> TokenizeError {
        TokenizeError::ChatTemplate { file: self.file.clone(), source }
    }
}

impl Writer<'_> {
    fn render(&self, messages: &[Message], prompt: bool) -> Result<Rendered, TokenizeError> {
        if let Some(error) = self.chat.spent.get() {
            return Err(self.chat.failed(error.clone()));
        }
        let messages = Json::Array(messages.iter().map(Message::for_template).collect());
        let (prompt, nothing) = (Json::Bool(prompt), Json::Null);
        let conversation = self.conversation;
        let mut variables: Vec<(&str, &Json)> =
            self.chat.special.iter().map(|(name, text)| (name.as_str(), text)).collect();
        for (name, value) in &conversation.variables {
            if RESERVED.contains(&name.as_str()) {
                return Err(TokenizeError::ReservedVariable { name: name.clone() });
            }
            variables.push((name, value));
        }
        variables.push(("messages", &messages));
        variables.push(("tools", conversation.tools.as_ref().unwrap_or(&nothing)));
        variables.push(("documents", conversation.documents.as_ref().unwrap_or(&nothing)));
        variables.push(("add_generation_prompt", &prompt));
        self.template.render(&variables).map_err(|error| {
            if matches!(error, TemplateError::Limit { .. } | TemplateError::Thread) {
                let _ = self.chat.spent.set(error.clone());
            }
            self.chat.failed(error)
        })
    }

    /// The whole conversation. A template that knows no parts must not write them as Python's lists.
    fn whole(&self) -> Result<Rendered, TokenizeError> {
        let messages = &self.conversation.messages;
        let parts = |message: &Message| matches!(message.get("content"), Some(Json::Array(_)));
        let first = messages.iter().position(parts);
        let whole = self.render(messages, false).map_err(|error| match (error, first) {
            (TokenizeError::ChatTemplate { file, source: source @ TemplateError::Failed { .. } }, Some(message)) => {
                TokenizeError::Parts { message, file, source: Some(source) }
            }
            (error, _) => error,
        })?;
        for (message, found) in messages.iter().enumerate() {
            if let Some(content @ Json::Array(_)) = found.get("content")
                && python_repr(content).is_some_and(|list| whole.text.contains(&list))
            {
                return Err(TokenizeError::Parts { message, file: self.chat.file.clone(), source: None });
            }
        }
        Ok(whole)
    }

    /// All that follows the prompt, as TRL scores it.
    fn completion(&self, prompt: usize, whole: &str) -> Result<Range<usize>, TokenizeError> {
        let (given, completed) = self.conversation.messages.split_at(prompt.min(self.conversation.messages.len()));
        let role = given.last().map_or("", Message::role);
        if !matches!(role, "user" | "tool") {
            return Err(TokenizeError::PromptRole { role: role.to_owned() });
        }
        if let Some(unscored) = completed.iter().position(|message| !message.is_scored()) {
            return Err(TokenizeError::UnscoredCompletion { message: unscored });
        }
        let start = common_prefix(&self.render(given, true)?.text, whole);
        if start == whole.len() { Err(TokenizeError::EmptyCompletion) } else { Ok(start..whole.len()) }
    }

    /// The assistant's messages and whether each is scored.
    fn assistants(&self) -> Result<Vec<(usize, bool)>, TokenizeError> {
        let messages = &self.conversation.messages;
        let found: Vec<(usize, bool)> = (messages.iter().enumerate())
            .filter(|(_, message)| message.role() == "assistant")
            .map(|(at, message)| (at, message.is_scored()))
            .collect();
        if found.is_empty() {
            return Err(TokenizeError::NoAssistant { messages: messages.len() });
        }
        if !found.iter().any(|&(_, scored)| scored) {
            return Err(TokenizeError::NoScored { messages: found.len() });
        }
        Ok(found)
    }

    /// What the template marks with `generation`.
    fn marked(&self, whole: &Rendered) -> Result<Vec<Range<usize>>, TokenizeError> {
        let assistants = self.assistants()?;
        let marks = &whole.marks;
        if assistants.iter().all(|&(_, scored)| scored) {
            let marks: Vec<Range<usize>> = marks.iter().filter(|mark| !mark.is_empty()).cloned().collect();
            return if marks.is_empty() { Err(TokenizeError::NoMarks) } else { Ok(marks) };
        }
        if marks.len() != assistants.len() {
            return Err(TokenizeError::MarksAndWeights { marks: marks.len(), messages: assistants.len() });
        }
        Ok(marks.iter().zip(assistants).filter(|(_, (_, scored))| *scored).map(|(mark, _)| mark.clone()).collect())
    }

    /// The assistant's messages in the text.
    fn answers(&self, whole: &str) -> Result<Vec<Range<usize>>, TokenizeError> {
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (message, _) in self.assistants()?.into_iter().filter(|&(_, scored)| scored) {
            let span = self.answer(message, whole)?;
            if span.is_empty() || spans.last().is_some_and(|last| span.start < last.end) {
                return Err(TokenizeError::UnstableTemplate { message });
            }
            spans.push(span);
        }
        Ok(spans)
    }

    /// From the end of its prompt to the beginning of what follows.
    ///
    /// The prompt's end is where the text parts from that of the prompt: a prompt may open a thought that the answer
    /// does not have. Where the template writes a message differently once others follow, as those do that drop
    /// earlier thoughts, the place is found by writing the conversation with another text in this message.
    fn answer(&self, message: usize, whole: &str) -> Result<Range<usize>, TokenizeError> {
        let messages = &self.conversation.messages;
        let before = match message {
            // Many templates look at the first message, which a prompt of nothing does not have.
            0 => self.render(&[], true).ok(),
            _ => Some(self.render(&messages[..message], true)?),
        };
        let start = match before {
            Some(before) if whole.starts_with(&before.text) => Some(before.text.len()),
            Some(before) if message > 0 => {
                let history = self.render(&messages[..message], false)?.text;
                let common = common_prefix(&before.text, whole);
                (whole.starts_with(&history) && common >= history.len()).then_some(common)
            }
            _ => None,
        };
        let after = match message + 1 == messages.len() {
            true => whole.to_owned(),
            false => self.render(&messages[..=message], false)?.text,
        };
        let end = whole.starts_with(&after).then_some(after.len());
        if let (Some(start), Some(end)) = (start, end) {
            return Ok(start..end);
        }
        let unstable = || TokenizeError::UnstableTemplate { message };
        let mut others = messages.clone();
        others[message] = placeholder(&messages[message]);
        let other = self.render(&others, false).map_err(|_| unstable())?.text;
        if other.matches(PLACEHOLDER).count() != 1 {
            return Err(unstable());
        }
        let content = content_of(whole, &other);
        let end = match end {
            Some(end) => end,
            None => {
                let other = self.render(&others[..=message], false).map_err(|_| unstable())?.text;
                let closing = &after[content_of(&after, &other).end..];
                let rest = whole[content.end..].strip_prefix(closing).ok_or_else(unstable)?;
                whole.len() - rest.len()
            }
        };
        Ok(start.unwrap_or(content.start)..end)
    }
}

/// A message whose content has the form of another's: a text, or parts.
fn placeholder(like: &Message) -> Message {
    let text = |text: &str| Json::String(text.to_owned());
    let part = Json::Object(vec![("type".to_owned(), text("text")), ("text".to_owned(), text(PLACEHOLDER))]);
    let parts = matches!(like.get("content"), Some(Json::Array(_))).then(|| {
        let pairs = [("role", text("assistant")), ("content", Json::Array(vec![part]))];
        Message::from_json(&Json::Object(pairs.map(|(name, value)| (name.to_owned(), value)).into()))
    });
    parts.and_then(Result::ok).unwrap_or_else(|| Message::new("assistant", PLACEHOLDER))
}

/// The bytes of the longest common beginning, in whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum()
}

/// The part of a text that differs from another one.
fn content_of(text: &str, other: &str) -> Range<usize> {
    let start = common_prefix(text, other);
    let (rest, other) = (&text[start..], &other[start..]);
    let same = rest.chars().rev().zip(other.chars().rev()).take_while(|(a, b)| a == b);
    start..text.len() - same.map(|(c, _)| c.len_utf8()).sum::<usize>()
}
