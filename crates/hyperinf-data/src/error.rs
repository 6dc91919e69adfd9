use std::fmt;
use std::io;

use hyperinf_models::{MessageError, TokenizeError};

use crate::table::ENDINGS;

/// Names listed in one message at most.
const LISTED: usize = 12;

/// Why a file cannot be used as a data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("it cannot be read")]
    Open(#[source] io::Error),
    /// A folder, a pipe or a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// No format has this ending.
    #[error("its name must end in {}", ENDINGS.join(", "))]
    Ending,
    /// No rows at all.
    #[error("it has no rows")]
    Empty,
    /// The header of a CSV file cannot be read.
    #[error("its first line is not a header of column names")]
    Header(#[source] csv::Error),
    /// Two columns with the same name.
    #[error("it has the column `{column}` twice")]
    DuplicateColumn {
        /// The column's name.
        column: String,
    },
    /// Not a Parquet file, or a damaged one.
    #[error("it cannot be read as Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// A Parquet file whose rows cannot be decoded.
    #[error("its rows cannot be decoded")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// A Parquet column lies outside its file.
    #[error("it is damaged: column `{column}` lies outside the file")]
    Chunk {
        /// The column's name.
        column: String,
    },
    /// A Parquet column has an unsupported compression.
    #[error("column `{column}` is compressed with {codec}, expected uncompressed, SNAPPY or GZIP")]
    Codec {
        /// The column's name.
        column: String,
        /// The compression.
        codec: String,
    },
    /// A column named in [`ColumnOptions`](crate::ColumnOptions) is missing.
    #[error("it has no column `{column}` for the {role}; its columns are {}", listed(.found))]
    NoColumn {
        /// The field of [`ColumnOptions`](crate::ColumnOptions) that names it.
        role: &'static str,
        /// The column's name.
        column: String,
        /// The columns of the file.
        found: Vec<String>,
    },
    /// No column has one of the usual names of something that the model needs.
    #[error("it has no column for {what}: expected {expected}; its columns are {}", listed(.found))]
    Columns {
        /// What the model needs.
        what: &'static str,
        /// The usual names.
        expected: &'static str,
        /// The columns of the file.
        found: Vec<String>,
    },
    /// A Parquet column has a type that is not read.
    #[error("column `{column}` has values of type {found}, expected {expected}")]
    ColumnType {
        /// The column's name.
        column: String,
        /// Its type.
        found: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// Rows that cannot be used.
    #[error("{}", rows(.bad, *.of))]
    Rows {
        /// The rows, at least one, in order.
        bad: Vec<BadRow>,
        /// All rows of the file.
        of: usize,
    },
    /// No row can be used, although bad rows may be skipped.
    #[error("none of its {of} rows can be used; the first: {}", .first)]
    AllBad {
        /// The first of them.
        first: BadRow,
        /// All rows of the file.
        of: usize,
    },
    /// Training data of a single class.
    #[error("all {rows} rows have the label `{label}`, expected at least two labels")]
    OneLabel {
        /// The label.
        label: String,
        /// The number of rows.
        rows: usize,
    },
    /// Labels are names, and neither the model nor the adapter maps names to classes.
    #[error(
        "label `{label}` is a name, but neither the model nor the adapter says which of the {classes} classes it is"
    )]
    UnnamedLabel {
        /// The first such label.
        label: String,
        /// The number of classes.
        classes: usize,
    },
    /// The file was changed after it was read.
    #[error("it was changed while the program ran")]
    Changed,
}

/// Why part of a data set was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubsetError {
    /// The data set cannot be read again.
    #[error("the file that it is made from cannot be read any more")]
    Input(#[from] DataError),
    /// The output cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The Parquet writer failed.
    #[error(transparent)]
    Parquet(parquet::errors::ParquetError),
    /// The rows could not be filtered.
    #[error(transparent)]
    Arrow(arrow_schema::ArrowError),
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// The row's number in the file, from 0.
    pub row: usize,
    /// The line where it begins, from 1; `None` for Parquet.
    pub line: Option<usize>,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line} (row {}): {}", self.row, self.reason),
            None => write!(f, "row {}: {}", self.row, self.reason),
        }
    }
}

/// Why a row cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// JSON, but not an object.
    #[error("it is not a JSON object of columns")]
    NotObject,
    /// A blank line between rows.
    #[error("it is blank")]
    Blank,
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    Utf8,
    /// A CSV record with more or fewer fields than the header.
    #[error("it has {found} fields, the header has {expected}")]
    Fields {
        /// Fields of the record.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// A CSV record with a quoted field that runs into the next rows.
    #[error("a quote in it is not closed: everything up to the next quote becomes one field")]
    OpenQuote,
    /// A column without a value.
    #[error("column `{column}` is missing")]
    Missing {
        /// The column's name.
        column: String,
    },
    /// A value of another type.
    #[error("column `{column}` holds {found}, expected {expected}")]
    Type {
        /// The column's name.
        column: String,
        /// The type found.
        found: &'static str,
        /// The type expected.
        expected: &'static str,
    },
    /// An entry of a conversation that is no message.
    #[error("message {message} of column `{column}`: {error}")]
    Message {
        /// The column's name.
        column: String,
        /// The message, from 0.
        message: usize,
        /// Why.
        error: MessageError,
    },
    /// A text that should hold JSON.
    #[error("column `{column}` holds a text that is not JSON: {error}")]
    NotJson {
        /// The column's name.
        column: String,
        /// Why.
        error: String,
    },
    /// An empty text, or only white space.
    #[error("column `{column}` is empty")]
    EmptyText {
        /// The column's name.
        column: String,
    },
    /// A text that ends where its prompt does.
    #[error("the completion is empty: nothing follows the prompt in column `{column}`")]
    EmptyCompletion {
        /// The column's name.
        column: String,
    },
    /// A text that does not begin with its prompt.
    #[error("column `{text}` does not begin with column `{prompt}`")]
    NotPrompt {
        /// The column with the text.
        text: String,
        /// The column with the prompt.
        prompt: String,
    },
    /// A label that is not one of the classes.
    #[error("label `{label}` is not one of {}", listed(.known))]
    Label {
        /// The label.
        label: String,
        /// The labels of the classes.
        known: Vec<String>,
    },
    /// More tokens than the limit.
    #[error("it has {tokens} tokens, more than the limit of {limit}")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// The tokenizer makes no sample of it.
    #[error("{0}")]
    Tokens(String),
    /// A token that the model does not know.
    #[error("its token {token} is beyond the model's vocabulary of {vocabulary}: the tokenizer is another model's")]
    Vocabulary {
        /// The token.
        token: u32,
        /// The number of tokens that the model knows.
        vocabulary: usize,
    },
    /// An id that another row has.
    #[error("its id `{id}` is also that of row {first}")]
    Duplicate {
        /// The id.
        id: String,
        /// The earlier row.
        first: usize,
    },
}

impl From<TokenizeError> for Reason {
    fn from(error: TokenizeError) -> Self {
        match error {
            TokenizeError::TooLong { tokens, limit } => Self::TooLong { tokens, limit },
            other => Self::Tokens(other.to_string()),
        }
    }
}

impl DataError {
    /// The error of bad rows that may not be skipped, or that leave no other rows.
    pub(crate) fn bad_rows(mut bad: Vec<BadRow>, of: usize, skip: bool) -> Self {
        if skip && !bad.is_empty() { Self::AllBad { first: bad.swap_remove(0), of } } else { Self::Rows { bad, of } }
    }
}

/// Names in backquotes, at most a dozen.
pub fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > LISTED { format!(" and {} more", names.len() - LISTED) } else { String::new() };
    if shown.is_empty() { "none".into() } else { shown.join(", ") + &more }
}

fn rows(bad: &[BadRow], of: usize) -> String {
    let first = bad.first().map(BadRow::to_string).unwrap_or_default();
    match bad.len() {
        1 => first,
        count => format!("{count} of {of} rows cannot be used; the first is {first}"),
    }
}
