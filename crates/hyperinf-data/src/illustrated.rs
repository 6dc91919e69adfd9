use hyperinf_models::{Conversation, Json, Message};

use crate::columns::{Cells, Header, Role};
use crate::conversations::ChatColumns;
use crate::dataset::Content;
use crate::images::{ImageSource, source};
use crate::{DataError, Reason};

/// The content of one row for a vision-language model: a conversation with images, or without.
///
/// Every message's content is a list of parts, `{"type": "text", "text": …}` and `{"type": "image"}`, as the chat
/// templates of such models read it. There are as many parts of type `image` as there are images, in the same order.
/// They are written as parts, as marks `<image>` in texts, or not at all: then the images of the row come first in the
/// first message of the user, as in TRL.
#[derive(Clone, Debug, PartialEq)]
pub struct Illustrated {
    /// The conversation: the assistant's messages are predicted, or those after its prompt.
    pub conversation: Conversation,
    /// The images, in the order of their parts.
    pub images: Vec<ImageSource>,
}

/// The columns of an [`Illustrated`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IllustratedColumns {
    /// The images; `None` if messages name theirs, or there are none.
    pub images: Option<String>,
    /// The texts.
    pub texts: IllustratedTexts,
    /// Columns for the chat template.
    pub chat: ChatColumns,
}

/// The columns of an [`Illustrated`] that hold its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IllustratedTexts {
    /// A conversation, in OpenAI's form or in ShareGPT's, which is LLaVA's.
    Messages(String),
    /// A question and an answer, as texts or as lists of messages.
    Completion {
        /// The question: `prompt` or `question`.
        prompt: String,
        /// The answer: `completion` or `answer`.
        completion: String,
    },
}

impl Content for Illustrated {
    type Columns = IllustratedColumns;

    fn columns(header: &Header<'_>) -> Result<IllustratedColumns, DataError> {
        let options = header.options;
        let images = header.images()?;
        let chat = ChatColumns::new(header);
        let named = options.prompt.is_some() || options.completion.is_some();
        let usual: &[&str] = if named { &[] } else { &["messages", "conversations"] };
        if let Some(messages) = header.find("messages", &options.messages, usual)? {
            return Ok(IllustratedColumns { images, texts: IllustratedTexts::Messages(messages), chat });
        }
        let prompt = header.find("prompt", &options.prompt, &["prompt", "question"])?;
        let prompt = prompt.ok_or_else(|| header.missing("the text", "messages, or prompt and completion"))?;
        let completion = header.find("completion", &options.completion, &["completion", "answer"])?;
        let completion = completion.ok_or_else(|| header.missing("what follows the prompt", "completion or answer"))?;
        Ok(IllustratedColumns { images, texts: IllustratedTexts::Completion { prompt, completion }, chat })
    }

    fn roles(columns: &IllustratedColumns) -> Vec<Role> {
        let mut roles: Vec<Role> = columns.images.iter().map(|column| Role::images(column)).collect();
        match &columns.texts {
            IllustratedTexts::Messages(messages) => {
                let expected = "lists of messages with role and content";
                roles.push(Role { name: "messages", column: Some(messages.clone()), expected });
            }
            IllustratedTexts::Completion { prompt, completion } => {
                roles.extend([Role::text("prompt", prompt), Role::text("completion", completion)]);
            }
        }
        roles.extend(columns.chat.roles());
        roles
    }

    fn read(columns: &IllustratedColumns, cells: Cells<'_>) -> Result<Self, Reason> {
        let mut marked = Marked::default();
        let prompt = match &columns.texts {
            IllustratedTexts::Messages(messages) => {
                marked.list(cells, messages)?;
                None
            }
            IllustratedTexts::Completion { prompt, completion } => {
                marked.list_or_text(cells, prompt, "user")?;
                let given = marked.messages.len();
                marked.list_or_text(cells, completion, "assistant")?;
                Some(given)
            }
        };
        let of_row = columns.images.as_ref().map_or(Ok(Vec::new()), |column| cells.images(column))?;
        let (messages, images) = marked.with(of_row, cells)?;
        Ok(Self { conversation: columns.chat.conversation(cells, messages, prompt)?, images })
    }

    fn text(&self) -> String {
        let line = |message: &Message| format!("{}: {}", message.role(), message.text());
        self.conversation.messages.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn images(&self) -> &[ImageSource] {
        &self.images
    }
}

/// Messages, and what they say of each of their images.
#[derive(Default)]
struct Marked {
    messages: Vec<Message>,
    images: Vec<(String, Option<Json>)>,
}

impl Marked {
    fn list(&mut self, cells: Cells<'_>, column: &str) -> Result<(), Reason> {
        let value = match cells.json(column) {
            // A cell of CSV.
            Some(Json::String(text)) if text.trim_start().starts_with('[') => {
                let not_json = |error| Reason::NotJson { column: column.to_owned(), error };
                serde_json::from_str(&text).map_err(|error| not_json(error.to_string()))?
            }
            Some(value) => value,
            None => return Err(Reason::Missing { column: column.to_owned() }),
        };
        let Json::Array(list) = value else {
            let expected = "a list of messages, each with the texts `role` and `content`";
            return Err(Reason::Type { column: column.to_owned(), found: value.type_name(), expected });
        };
        if list.is_empty() {
            return Err(Reason::EmptyText { column: column.to_owned() });
        }
        list.iter().enumerate().try_for_each(|(message, value)| self.message(column, message, value))
    }

    fn list_or_text(&mut self, cells: Cells<'_>, column: &str, role: &str) -> Result<(), Reason> {
        if matches!(cells.json(column), Some(Json::Array(_))) {
            return self.list(cells, column);
        }
        let pair = |key: &str, value: String| (key.to_owned(), Json::String(value));
        let message = Json::Object(vec![pair("role", role.to_owned()), pair("content", cells.text(column)?)]);
        self.message(column, 0, &message)
    }

    fn message(&mut self, column: &str, message: usize, value: &Json) -> Result<(), Reason> {
        let failed = |error| Reason::Message { column: column.to_owned(), message, error };
        let (message, images) = Message::with_images(value).map_err(failed)?;
        self.messages.push(message);
        self.images.extend(images.into_iter().map(|image| (column.to_owned(), image)));
        Ok(())
    }

    /// The messages with all images; those that they do not name come from the row, in order.
    fn with(mut self, of_row: Vec<ImageSource>, cells: Cells<'_>) -> Result<(Vec<Message>, Vec<ImageSource>), Reason> {
        let marks = self.images.len();
        let named = self.images.iter().filter(|(_, image)| image.is_some()).count();
        if marks == 0
            && !of_row.is_empty()
            && let Some(first) = self.messages.iter_mut().find(|message| message.role() == "user")
        {
            first.prepend_images(of_row.len());
            return Ok((self.messages, of_row));
        }
        if marks != named + of_row.len() {
            return Err(Reason::ImageCount { marks, images: named + of_row.len() });
        }
        let mut of_row = of_row.into_iter();
        let mut images = Vec::with_capacity(marks);
        for (column, image) in &self.images {
            match image {
                Some(value) => images.push(source(column, value, cells.folder)?),
                None => images.extend(of_row.next()),
            }
        }
        Ok((self.messages, images))
    }
}
