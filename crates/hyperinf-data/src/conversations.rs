//! Conversations from the cells of a row.

use hyperinf_models::{Conversation, Json, Message, MessageError};

use crate::Reason;
use crate::columns::{Cells, Header, Role};

/// Columns next to a conversation that its chat template gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatColumns {
    /// Descriptions of tools: a list, or a list as JSON text.
    pub tools: Option<String>,
    /// Documents: a list of objects.
    pub documents: Option<String>,
    /// More variables of the template: an object.
    pub variables: Option<String>,
}

impl ChatColumns {
    /// The columns with their usual names.
    pub(crate) fn new(header: &Header<'_>) -> Self {
        let find = |name: &str| header.has(name).then(|| name.to_owned());
        Self { tools: find("tools"), documents: find("documents"), variables: find("chat_template_kwargs") }
    }

    pub(crate) fn roles(&self) -> Vec<Role> {
        let role = |name, column: &Option<String>, expected| {
            column.as_ref().map(|column| Role { name, column: Some(column.clone()), expected })
        };
        let roles = [
            role("tools", &self.tools, "lists of tools"),
            role("documents", &self.documents, "lists of documents"),
            role("chat_template_kwargs", &self.variables, "objects of variables"),
        ];
        roles.into_iter().flatten().collect()
    }

    /// The conversation with what these columns hold.
    pub(crate) fn conversation(
        &self,
        cells: Cells<'_>,
        messages: Vec<Message>,
        prompt: Option<usize>,
    ) -> Result<Conversation, Reason> {
        let tools = match value(cells, &self.tools) {
            // As TRL does.
            Some((column, Json::String(text))) => match Json::parse(&text) {
                Ok(Json::Null) => None,
                Ok(tools) => Some(objects(column, tools)?),
                Err(error) => return Err(Reason::NotJson { column: column.to_owned(), error: error.to_string() }),
            },
            Some((column, tools)) => Some(objects(column, tools)?),
            None => None,
        };
        let documents =
            value(cells, &self.documents).map(|(column, documents)| objects(column, documents)).transpose()?;
        let variables = match value(cells, &self.variables) {
            Some((_, Json::Object(variables))) => variables,
            Some((column, other)) => return Err(wrong(column, &other, "an object of variables")),
            None => Vec::new(),
        };
        Ok(Conversation { messages, prompt, tools, documents, variables })
    }
}

/// The messages of a column, or the reason why it holds none.
pub(crate) fn messages(column: &str, value: &Json) -> Result<Vec<Message>, Reason> {
    let Json::Array(list) = value else {
        return Err(wrong(column, value, "a list of messages, each with the texts `role` and `content`"));
    };
    if list.is_empty() {
        return Err(Reason::EmptyText { column: column.to_owned() });
    }
    let message = |(message, value): (usize, &Json)| {
        Message::from_json(value).map_err(|error: MessageError| Reason::Message {
            column: column.to_owned(),
            message,
            error,
        })
    };
    list.iter().enumerate().map(message).collect()
}

fn value<'a>(cells: Cells<'_>, column: &'a Option<String>) -> Option<(&'a str, Json)> {
    let column = column.as_deref()?;
    Some((column, cells.json(column)?))
}

fn wrong(column: &str, value: &Json, expected: &'static str) -> Reason {
    Reason::Type { column: column.to_owned(), found: value.type_name(), expected }
}

/// A list of objects.
fn objects(column: &str, value: Json) -> Result<Json, Reason> {
    match &value {
        Json::Array(entries) => match entries.iter().find(|entry| !matches!(entry, Json::Object(_))) {
            Some(other) => Err(wrong(column, other, "objects in its list")),
            None => Ok(value),
        },
        other => Err(wrong(column, other, "a list of objects")),
    }
}
