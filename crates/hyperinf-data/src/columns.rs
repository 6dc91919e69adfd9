use std::path::Path;

use hyperinf_models::{Json, Message};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Number;

use crate::conversations::messages;
use crate::images::{self, ImageSource};
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
/// | `image` | `image`, `images`, `file_name`, `file_names` | kinds with images |
/// | `id` | none: rows are numbered from 0 | both kinds |
///
/// A column that the file lacks is a [`DataError::NoColumn`], one that the kind of model does not read a
/// [`DataError::UnusedColumn`].
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
    /// Images: paths, or bytes with paths, one or a list of them.
    pub image: Option<String>,
    /// The rows' ids.
    pub id: Option<String>,
}

impl ColumnOptions {
    /// Fails if a column is named for a part that is not read: one of another kind of model, or of another form of row.
    pub(crate) fn check_used(&self, roles: &[Role]) -> Result<(), DataError> {
        let Self { text, pair, label, prompt, completion, messages, image, id: _ } = self;
        let named = [
            ("text", "text", text),
            ("pair", "text_pair", pair),
            ("label", "label", label),
            ("prompt", "prompt", prompt),
            ("completion", "completion", completion),
            ("messages", "messages", messages),
            ("image", "image", image),
        ];
        for (role, part, column) in named {
            let Some(column) = column else { continue };
            if !roles.iter().any(|role| role.name == part && role.column.as_ref() == Some(column)) {
                let read = roles.iter().filter(|role| role.column.is_some()).map(|role| role.name.to_owned()).collect();
                return Err(DataError::UnusedColumn { role, column: column.clone(), read });
            }
        }
        Ok(())
    }
}

/// What a column of images holds.
const IMAGES: &str = "images: paths, or bytes with paths";
/// The usual names of a column of images, of `datasets` and of its image folders.
const IMAGE_NAMES: [&str; 4] = ["image", "images", "file_name", "file_names"];

/// The names of a table's columns, and the options that choose among them.
pub struct Header<'a> {
    table: &'a Table,
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

/// The values of a row, of the columns that [`Content::roles`](crate::Content::roles) names.
#[derive(Clone, Copy)]
pub struct Cells<'a> {
    pub(crate) columns: &'a [&'a str],
    pub(crate) values: &'a [Option<Json>],
    /// Where relative paths of images begin.
    pub(crate) folder: &'a Path,
}

impl<'a> Header<'a> {
    pub(crate) fn new(table: &'a Table, options: &'a ColumnOptions) -> Self {
        Self { table, options }
    }

    /// Whether there is a column of this name.
    pub fn has(&self, name: &str) -> bool {
        self.table.columns.iter().any(|column| column == name)
    }

    /// Whether a column has a value in any row; an empty text is none.
    ///
    /// # Errors
    ///
    /// If the rows cannot be read.
    pub fn holds_values(&self, name: &str) -> Result<bool, DataError> {
        // A column that must not be read is an error of its own, later.
        let unread = self.table.repeated.contains(name) || self.table.unreadable.contains_key(name);
        if unread { Ok(true) } else { self.table.holds_values(name) }
    }

    /// A column named by the user, or `None` if none was named.
    ///
    /// # Errors
    ///
    /// [`DataError::NoColumn`] if the file lacks it.
    pub fn named(&self, role: &'static str, name: &Option<String>) -> Result<Option<String>, DataError> {
        match name {
            Some(column) if !self.has(column) => {
                Err(DataError::NoColumn { role, column: column.clone(), found: self.table.columns.clone() })
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

    /// The column of images.
    ///
    /// # Errors
    ///
    /// As [`Header::named`].
    pub fn images(&self) -> Result<Option<String>, DataError> {
        self.find("image", &self.options.image, &IMAGE_NAMES)
    }

    /// The error of a part that has no column.
    pub fn missing(&self, what: &'static str, expected: &'static str) -> DataError {
        DataError::Columns { what, expected, found: self.table.columns.clone() }
    }
}

impl Role {
    /// A part that is a text.
    pub fn text(name: &'static str, column: &str) -> Self {
        Self { name, column: Some(column.to_owned()), expected: "texts" }
    }

    /// A part that is images.
    pub fn images(column: &str) -> Self {
        Self { name: "image", column: Some(column.to_owned()), expected: IMAGES }
    }

    /// A part that may be absent.
    pub fn optional(self, column: Option<&str>) -> Self {
        Self { column: column.map(str::to_owned), ..self }
    }
}

impl Columns {
    /// # Errors
    ///
    /// [`DataError::ColumnType`] if a column has a type that is not read, [`DataError::DuplicateColumn`] if there are
    /// several of its name.
    pub(crate) fn new(table: &Table, roles: Vec<Role>, id: Option<String>) -> Result<Self, DataError> {
        let of_id = id.as_deref().map(|id| (id, "texts or whole numbers"));
        let of_roles = roles.iter().filter_map(|role| Some((role.column.as_deref()?, role.expected)));
        for (column, expected) in of_roles.chain(of_id) {
            if table.repeated.contains(column) {
                return Err(DataError::DuplicateColumn { column: column.to_owned() });
            }
            if let Some(found) = table.unreadable.get(column).filter(|_| expected != IMAGES || !table.is_binary(column))
            {
                return Err(DataError::ColumnType { column: column.to_owned(), found: found.clone(), expected });
            }
        }
        let is_read = |column: &&String| {
            id.as_ref() == Some(column) || roles.iter().any(|role| role.column.as_ref() == Some(column))
        };
        let unread = table.columns.iter().filter(|column| !is_read(column)).cloned().collect();
        Ok(Self { roles, id, unread })
    }

    /// The columns that are read, each once.
    pub(crate) fn read(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        for column in self.roles.iter().filter_map(|role| role.column.as_deref()).chain(self.id.as_deref()) {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        columns
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
            Json::String(text) => Ok(text.clone()),
            other => Err(Reason::Type { column: column.to_owned(), found: other.type_name(), expected: "a text" }),
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

    /// A label: as [`Cells::name`], but a text that is a number with a fraction is refused as the number is, because
    /// CSV cannot tell them apart.
    ///
    /// # Errors
    ///
    /// As [`Cells::name`].
    pub fn label(self, column: &str) -> Result<String, Reason> {
        let label = self.name(column)?;
        match label.split_once('.') {
            Some((whole, fraction)) if is_number(whole.strip_prefix('-').unwrap_or(whole)) && is_number(fraction) => {
                let (found, expected) = ("a number with a fraction", "a text or a whole number");
                Err(Reason::Type { column: column.to_owned(), found, expected })
            }
            _ => Ok(label),
        }
    }

    /// An id: a text, a whole number or a truth value, as text.
    ///
    /// CSV has no types, so a column means the same in every format: `1`, `1.0`, `"1"` and `"1.0"` are `1`, and `true`
    /// and `"true"` are `true`.
    ///
    /// # Errors
    ///
    /// As [`Cells::text`], or if it is a number with a fraction, or one whose digits are not exact: a whole number that
    /// neither a signed nor an unsigned integer of 64 bits holds, or a float of at least 2^53.
    pub fn name(self, column: &str) -> Result<String, Reason> {
        match self.value(column)? {
            Json::String(_) => self.text(column).map(|text| whole(&text).map(str::to_owned).unwrap_or(text)),
            Json::Bool(value) => Ok(value.to_string()),
            Json::Number(number) => name_of(number).map_err(|found| Reason::Type {
                column: column.to_owned(),
                found,
                expected: "a text or a whole number",
            }),
            other => {
                let (found, expected) = match other {
                    Json::Large(_) => (INEXACT, "a text or a whole number"),
                    other => (other.type_name(), "a text or a whole number"),
                };
                Err(Reason::Type { column: column.to_owned(), found, expected })
            }
        }
    }

    /// The value of a column; `None` if it has none in this row.
    pub fn json(self, column: &str) -> Option<Json> {
        self.value(column).ok().cloned()
    }

    /// A conversation: a list of messages, at least one.
    ///
    /// # Errors
    ///
    /// If the column has no value in this row, another type, or an empty list.
    pub fn messages(self, column: &str) -> Result<Vec<Message>, Reason> {
        messages(column, self.value(column)?)
    }

    /// The images of a column, in order; none if it has no value in this row.
    ///
    /// # Errors
    ///
    /// If one is neither a path nor bytes, or lies on the net.
    pub fn images(self, column: &str) -> Result<Vec<ImageSource>, Reason> {
        match self.json(column) {
            None => Ok(Vec::new()),
            Some(value) => images::sources(column, &value, self.folder),
        }
    }

    fn value(&self, column: &str) -> Result<&Json, Reason> {
        let place = self.columns.iter().position(|name| *name == column);
        debug_assert!(place.is_some(), "column `{column}` is read but not among the roles");
        match place.and_then(|place| self.values.get(place)) {
            None | Some(None | Some(Json::Null)) => Err(Reason::Missing { column: column.to_owned() }),
            Some(Some(value)) => Ok(value),
        }
    }
}

const INEXACT: &str = "a number beyond 2^53 that is not an integer of 64 bits, so that its digits are not exact";

/// A whole number as text, or its type in words.
fn name_of(number: &Number) -> Result<String, &'static str> {
    /// From here on a float stands for several whole numbers.
    const EXACT: f64 = (1_u64 << 53) as f64;
    match number.as_f64() {
        _ if !number.is_f64() => Ok(number.to_string()),
        Some(value) if value.fract() != 0.0 => Err("a number with a fraction"),
        // Minus zero is zero.
        Some(value) if value.abs() < EXACT => Ok(format!("{:.0}", value + 0.0)),
        _ => Err(INEXACT),
    }
}

/// The digits of a whole number that is written with a fraction of zeros, as `1.0`.
pub(crate) fn whole(text: &str) -> Option<&str> {
    let (digits, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let unsigned = digits.strip_prefix('-').unwrap_or(digits);
    let plain = unsigned == "0" || !unsigned.starts_with('0');
    let whole = is_number(unsigned) && plain && is_number(fraction) && fraction.bytes().all(|byte| byte == b'0');
    whole.then_some(if unsigned == "0" { unsigned } else { digits })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
