use hyperinf::models::Message;
use serde::Serialize;
use serde_json::{Map, Value};

use super::table::Table;
use super::{Content, DatasetError, Reason, TextTask};
use crate::args::ColumnArgs;

/// Names of a text with the name of its second text, if it has one.
const TEXTS: [(&str, Option<&str>); 8] = [
    ("text", Some("text_pair")),
    ("text_a", Some("text_b")),
    ("sentence1", Some("sentence2")),
    ("premise", Some("hypothesis")),
    ("question1", Some("question2")),
    ("question", Some("sentence")),
    ("text", None),
    ("sentence", None),
];

/// Which columns hold what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Columns {
    /// The columns of the content.
    #[serde(flatten)]
    pub content: ContentColumns,
    /// The column of ids; none if rows are numbered.
    pub id: Option<String>,
}

/// Which columns hold a row's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ContentColumns {
    /// For a classifier: one or two texts and a label.
    Classified {
        /// The text.
        text: String,
        /// The second text.
        text_pair: Option<String>,
        /// The label.
        label: String,
    },
    /// What is given and what is to follow.
    Completion {
        /// What is given.
        prompt: String,
        /// What is to follow.
        completion: String,
    },
    /// What is given and the same with what is to follow.
    Continued {
        /// What is given.
        prompt: String,
        /// A text that begins with it.
        text: String,
    },
    /// A text that is to be predicted from its beginning.
    Text {
        /// The text.
        text: String,
    },
    /// A conversation.
    Messages {
        /// The list of messages.
        messages: String,
    },
}

/// What the flags and the names of a table's columns say about them.
struct Finder<'a> {
    table: &'a Table,
}

impl Finder<'_> {
    fn has(&self, name: &str) -> bool {
        self.table.columns.iter().any(|column| column == name)
    }

    /// The column that a flag names.
    fn named(&self, flag: &'static str, name: &Option<String>) -> Result<Option<String>, DatasetError> {
        match name {
            Some(column) if !self.has(column) => {
                let (column, found) = (column.clone(), self.table.columns.clone());
                Err(DatasetError::NoColumn { flag, column, found })
            }
            name => Ok(name.clone()),
        }
    }

    /// The column that a flag names, or the first of these names that there is.
    fn find(&self, flag: &'static str, name: &Option<String>, usual: &[&str]) -> Result<Option<String>, DatasetError> {
        let found = || usual.iter().find(|name| self.has(name)).map(|&name| name.to_owned());
        Ok(self.named(flag, name)?.or_else(found))
    }

    fn missing(&self, what: &'static str, expected: &'static str) -> DatasetError {
        DatasetError::Columns { what, expected, found: self.table.columns.clone() }
    }
}

impl Columns {
    /// Which columns hold what, by the flags and else by their names.
    pub(super) fn find(table: &Table, task: TextTask, args: &ColumnArgs) -> Result<Self, DatasetError> {
        let finder = Finder { table };
        let id = finder.named("--id-column", &args.id_column)?;
        let content = match task {
            TextTask::Classification => classified(&finder, args)?,
            TextTask::LanguageModel => language(&finder, args)?,
        };
        let columns = Self { content, id };
        for (column, expected) in columns.used() {
            if let Some(found) = table.unreadable.get(column) {
                return Err(DatasetError::ColumnType { column: column.to_owned(), found: found.clone(), expected });
            }
        }
        Ok(columns)
    }

    /// The columns with what they must hold.
    fn used(&self) -> Vec<(&str, &'static str)> {
        let mut used: Vec<(&str, &'static str)> = match &self.content {
            ContentColumns::Classified { text, text_pair, label } => {
                let texts = std::iter::once(text).chain(text_pair).map(|text| (text.as_str(), "texts"));
                texts.chain([(label.as_str(), "texts or whole numbers")]).collect()
            }
            ContentColumns::Completion { prompt: first, completion: second }
            | ContentColumns::Continued { prompt: first, text: second } => vec![(first, "texts"), (second, "texts")],
            ContentColumns::Text { text } => vec![(text, "texts")],
            ContentColumns::Messages { messages } => vec![(messages, "lists of messages with role and content")],
        };
        used.extend(self.id.as_deref().map(|id| (id, "texts or whole numbers")));
        used
    }

    /// What a row holds.
    pub(super) fn content(&self, cells: &Map<String, Value>) -> Result<Content, Reason> {
        Ok(match &self.content {
            ContentColumns::Classified { text: column, text_pair, label } => {
                let pair = text_pair.as_ref().map(|column| text(cells, column)).transpose()?;
                Content::Classified { text: text(cells, column)?, pair, label: name(cells, label)? }
            }
            ContentColumns::Completion { prompt, completion } => {
                let prompt = any_text(cells, prompt)?;
                let completion = match any_text(cells, completion)? {
                    empty if empty.trim().is_empty() => {
                        return Err(Reason::EmptyCompletion { column: completion.clone() });
                    }
                    completion => completion,
                };
                Content::Completion { prompt, completion }
            }
            ContentColumns::Continued { prompt: column, text: whole } => {
                let (prompt, text) = (any_text(cells, column)?, text(cells, whole)?);
                let Some(completion) = text.strip_prefix(&prompt) else {
                    return Err(Reason::NotPrompt { text: whole.clone(), prompt: column.clone() });
                };
                if completion.trim().is_empty() {
                    return Err(Reason::EmptyCompletion { column: whole.clone() });
                }
                let completion = completion.to_owned();
                Content::Completion { prompt, completion }
            }
            ContentColumns::Text { text: column } => Content::Text(text(cells, column)?),
            ContentColumns::Messages { messages } => Content::Messages(conversation(cells, messages)?),
        })
    }

    /// A row's own id.
    pub(super) fn id(&self, cells: &Map<String, Value>) -> Result<Option<String>, Reason> {
        self.id.as_ref().map(|column| name(cells, column)).transpose()
    }
}

fn classified(finder: &Finder<'_>, args: &ColumnArgs) -> Result<ContentColumns, DatasetError> {
    let pair = finder.named("--pair-column", &args.pair_column)?;
    let (text, text_pair) = match finder.named("--text-column", &args.text_column)? {
        Some(text) => (text, pair),
        None => {
            let there = |(text, pair): &&(&str, Option<&str>)| finder.has(text) && pair.is_none_or(|p| finder.has(p));
            let usual = TEXTS.iter().find(there).ok_or_else(|| {
                finder.missing(
                    "the text",
                    "text (and text_pair), text_a and text_b, sentence1 and sentence2, premise and hypothesis, question1 and question2",
                )
            })?;
            (usual.0.to_owned(), pair.or_else(|| usual.1.map(str::to_owned)))
        }
    };
    let label = finder.find("--label-column", &args.label_column, &["label", "labels"])?;
    let label = label.ok_or_else(|| finder.missing("the label", "label"))?;
    Ok(ContentColumns::Classified { text, text_pair, label })
}

fn language(finder: &Finder<'_>, args: &ColumnArgs) -> Result<ContentColumns, DatasetError> {
    // A flag for one form of content rules out the names of the others.
    let texts = args.text_column.is_some() || args.prompt_column.is_some() || args.completion_column.is_some();
    let usual: &[&str] = if texts { &[] } else { &["messages"] };
    if let Some(messages) = finder.find("--messages-column", &args.messages_column, usual)? {
        return Ok(ContentColumns::Messages { messages });
    }
    let prompt = finder.find("--prompt-column", &args.prompt_column, &["prompt"])?;
    // A prompt that is itself the text is no prompt.
    let prompt = prompt.filter(|prompt| args.prompt_column.is_some() || args.text_column.as_ref() != Some(prompt));
    let usual: &[&str] = if args.text_column.is_some() { &[] } else { &["completion"] };
    let completion = finder.find("--completion-column", &args.completion_column, usual)?;
    let text = finder.find("--text-column", &args.text_column, &["text"])?;
    match (prompt, completion, text) {
        (Some(prompt), Some(completion), _) => Ok(ContentColumns::Completion { prompt, completion }),
        (Some(prompt), None, Some(text)) => Ok(ContentColumns::Continued { prompt, text }),
        (None, None, Some(text)) => Ok(ContentColumns::Text { text }),
        (None, Some(_), _) => Err(finder.missing("the prompt", "prompt")),
        (Some(_), None, None) => Err(finder.missing("what follows the prompt", "completion or text")),
        (None, None, None) => Err(finder.missing("the text", "messages, prompt and completion, or text")),
    }
}

fn cell<'a>(cells: &'a Map<String, Value>, column: &str) -> Result<&'a Value, Reason> {
    match cells.get(column) {
        None | Some(Value::Null) => Err(Reason::Missing { column: column.to_owned() }),
        Some(value) => Ok(value),
    }
}

fn any_text(cells: &Map<String, Value>, column: &str) -> Result<String, Reason> {
    match cell(cells, column)? {
        Value::String(text) => Ok(text.clone()),
        other => Err(Reason::Type { column: column.to_owned(), found: kind(other), expected: "a text" }),
    }
}

fn text(cells: &Map<String, Value>, column: &str) -> Result<String, Reason> {
    match any_text(cells, column)? {
        text if text.trim().is_empty() => Err(Reason::EmptyText { column: column.to_owned() }),
        text => Ok(text),
    }
}

/// A text, a whole number or a truth value as a name.
fn name(cells: &Map<String, Value>, column: &str) -> Result<String, Reason> {
    match cell(cells, column)? {
        Value::String(_) => text(cells, column),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Number(number) if number.as_f64().is_some_and(|v| v.fract() == 0.0 && v.abs() < 9e15) => {
            Ok(number.as_i64().map_or_else(|| format!("{:.0}", number.as_f64().unwrap_or_default()), |v| v.to_string()))
        }
        other => {
            let expected = "a text or a whole number";
            Err(Reason::Type { column: column.to_owned(), found: kind(other), expected })
        }
    }
}

fn conversation(cells: &Map<String, Value>, column: &str) -> Result<Vec<Message>, Reason> {
    let expected = "a list of messages, each with the texts `role` and `content`";
    let value = cell(cells, column)?;
    let wrong = || Reason::Type { column: column.to_owned(), found: kind(value), expected };
    let messages: Vec<Message> = serde_json::from_value(value.clone()).map_err(|_| wrong())?;
    if messages.is_empty() { Err(Reason::EmptyText { column: column.to_owned() }) } else { Ok(messages) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
