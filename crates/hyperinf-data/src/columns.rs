use hyperinf_models::{Json, Message};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::conversations::messages;
use crate::table::Table;
use crate::{DataError, Reason};

/// The columns of a data set by name; a `None` is found by its usual names.
///
/// | field | usual names | used by |
/// |---|---|---|
/// | `text` | `text`, `sentence`, or the first of a pair | both kinds |
/// | `pair` | `text_pair`, or the second of a pair | classification |
/// | `label` | `label`, `labels` | classification |
/// | `prompt` | `prompt` | language modelling |
/// | `completion` | `completion`, or the text after the prompt | language modelling |
/// | `messages` | `messages`, `conversations` | language modelling |
/// | `id` | none: rows are numbered from 0 | both kinds |
///
/// A column that the file lacks is a [`DataError::NoColumn`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnOptions {
    /// The text.
    pub text: Option<String>,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// The label: a name or a whole number.
    pub label: Option<String>,
    /// The text that is given to a language model.
    pub prompt: Option<String>,
    /// The text that follows the prompt.
    pub completion: Option<String>,
    /// Conversations: lists of `role` and `content`.
    pub messages: Option<String>,
    /// The rows' ids.
    pub id: Option<String>,
}

/// The names of a table's columns, and the options that choose among them.
pub struct Header<'a> {
    columns: &'a [String],
    /// The columns named by the user.
    pub options: &'a ColumnOptions,
}

/// A part of a row's content and the column that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// The part, as summaries name it.
    pub name: &'static str,
    /// The column; `None` for an optional part that the data set lacks.
    pub column: Option<String>,
    /// What the column must hold, for error messages.
    pub expected: &'static str,
}

/// The column of each part; serialised as a map from part to column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The parts of the content.
    pub roles: Vec<Role>,
    /// The column of ids; `None` if rows are numbered.
    pub id: Option<String>,
    /// The columns of the file that are not read.
    pub unread: Vec<String>,
}

/// The values of a row by column.
#[derive(Clone, Copy)]
pub struct Cells<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Header<'a> {
    pub(crate) fn new(table: &'a Table, options: &'a ColumnOptions) -> Self {
        Self { columns: &table.columns, options }
    }

    /// Whether there is a column of this name.
    pub fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column == name)
    }

    /// A column named by the user, or `None` if none was named.
    ///
    /// # Errors
    ///
    /// [`DataError::NoColumn`] if the file lacks it.
    pub fn named(&self, role: &'static str, name: &Option<String>) -> Result<Option<String>, DataError> {
        match name {
            Some(column) if !self.has(column) => {
                Err(DataError::NoColumn { role, column: column.clone(), found: self.columns.to_vec() })
            }
            name => Ok(name.clone()),
        }
    }

    /// The column named by the user, or the first of the usual names that the file has.
    ///
    /// # Errors
    ///
    /// As [`Header::named`].
    pub fn find(&self, role: &'static str, name: &Option<String>, usual: &[&str]) -> Result<Option<String>, DataError> {
        let found = || usual.iter().find(|name| self.has(name)).map(|&name| name.to_owned());
        Ok(self.named(role, name)?.or_else(found))
    }

    /// The error of a part that has no column.
    pub fn missing(&self, what: &'static str, expected: &'static str) -> DataError {
        DataError::Columns { what, expected, found: self.columns.to_vec() }
    }
}

impl Role {
    /// A part that is a text.
    pub fn text(name: &'static str, column: &str) -> Self {
        Self { name, column: Some(column.to_owned()), expected: "texts" }
    }

    /// A part that may be absent.
    pub fn optional(self, column: Option<&str>) -> Self {
        Self { column: column.map(str::to_owned), ..self }
    }
}

impl Columns {
    /// # Errors
    ///
    /// [`DataError::ColumnType`] if a column has a type that is not read.
    pub(crate) fn new(table: &Table, roles: Vec<Role>, id: Option<String>) -> Result<Self, DataError> {
        let of_id = id.as_deref().map(|id| (id, "texts or whole numbers"));
        let of_roles = roles.iter().filter_map(|role| Some((role.column.as_deref()?, role.expected)));
        for (column, expected) in of_roles.chain(of_id) {
            if let Some(found) = table.unreadable.get(column) {
                return Err(DataError::ColumnType { column: column.to_owned(), found: found.clone(), expected });
            }
        }
        let is_read = |column: &&String| {
            id.as_ref() == Some(column) || roles.iter().any(|role| role.column.as_ref() == Some(column))
        };
        let unread = table.columns.iter().filter(|column| !is_read(column)).cloned().collect();
        Ok(Self { roles, id, unread })
    }
}

impl Serialize for Columns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.roles.len() + 1))?;
        for role in &self.roles {
            map.serialize_entry(role.name, &role.column)?;
        }
        map.serialize_entry("id", &self.id)?;
        map.end()
    }
}

impl Cells<'_> {
    /// A text, which may be empty.
    ///
    /// # Errors
    ///
    /// If the column has no value in this row or one of another type.
    pub fn any_text(self, column: &str) -> Result<String, Reason> {
        match self.value(column)? {
            Value::String(text) => Ok(text.clone()),
            other => Err(Reason::Type { column: column.to_owned(), found: type_name(other), expected: "a text" }),
        }
    }

    /// A text that is not blank.
    ///
    /// # Errors
    ///
    /// As [`Cells::any_text`], or if it is blank.
    pub fn text(self, column: &str) -> Result<String, Reason> {
        match self.any_text(column)? {
            text if text.trim().is_empty() => Err(Reason::EmptyText { column: column.to_owned() }),
            text => Ok(text),
        }
    }

    /// A label or an id: a text, a whole number or a boolean, as text.
    ///
    /// # Errors
    ///
    /// As [`Cells::text`].
    pub fn name(self, column: &str) -> Result<String, Reason> {
        match self.value(column)? {
            Value::String(_) => self.text(column),
            Value::Bool(value) => Ok(value.to_string()),
            Value::Number(number) if number.as_f64().is_some_and(|v| v.fract() == 0.0 && v.abs() < 9e15) => Ok(number
                .as_i64()
                .map_or_else(|| format!("{:.0}", number.as_f64().unwrap_or_default()), |v| v.to_string())),
            other => {
                let expected = "a text or a whole number";
                Err(Reason::Type { column: column.to_owned(), found: type_name(other), expected })
            }
        }
    }

    /// The value of a column; `None` if it has none in this row.
    pub fn json(self, column: &str) -> Option<Json> {
        self.value(column).ok().map(|value| Json::from(value.clone()))
    }

    /// A conversation: a list of messages, at least one.
    ///
    /// # Errors
    ///
    /// If the column has no value in this row, another type, or an empty list.
    pub fn messages(self, column: &str) -> Result<Vec<Message>, Reason> {
        self.value(column)?;
        messages(column, &self.json(column).unwrap_or_default())
    }

    fn value(&self, column: &str) -> Result<&Value, Reason> {
        match self.0.get(column) {
            None | Some(Value::Null) => Err(Reason::Missing { column: column.to_owned() }),
            Some(value) => Ok(value),
        }
    }
}

fn type_name(value: &Value) -> &'static str {
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
