use std::fmt;
use std::io;

use hyperinf::models::TokenizeError;

use super::table::ENDINGS;

/// The names listed in one message at most.
const LISTED: usize = 12;

/// Why a file cannot be used as a data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The file cannot be opened or read.
    #[error("it cannot be read")]
    Open(#[source] io::Error),
    /// A folder, a pipe or a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// The ending is none of the formats.
    #[error("its name must end in {}", ENDINGS.join(", "))]
    Ending,
    /// No rows at all.
    #[error("it has no rows")]
    Empty,
    /// The header of a CSV file cannot be read.
    #[error("its first line is not a header of column names")]
    Header(#[source] csv::Error),
    /// Two columns of one name.
    #[error("it has the column `{column}` twice")]
    Twice {
        /// The column's name.
        column: String,
    },
    /// The file is no Parquet file, or damaged.
    #[error("it cannot be read as Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// A Parquet file whose rows cannot be taken apart.
    #[error("its rows cannot be taken apart")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// A Parquet column lies outside its file.
    #[error("it is damaged: column `{column}` is said to lie where the file is not")]
    Chunk {
        /// The column's name.
        column: String,
    },
    /// A Parquet column is compressed in a way that this program does not know.
    #[error("column `{column}` is compressed with {codec}, expected uncompressed, SNAPPY or GZIP")]
    Codec {
        /// The column's name.
        column: String,
        /// The compression.
        codec: String,
    },
    /// A column that was asked for.
    #[error("it has no column `{column}`, which {flag} names; its columns are {}", listed(.found))]
    NoColumn {
        /// The flag that names it.
        flag: &'static str,
        /// The column's name.
        column: String,
        /// The columns that there are.
        found: Vec<String>,
    },
    /// No column can be the one that is needed.
    #[error("it has no column for {what}: expected {expected}; its columns are {}", listed(.found))]
    Columns {
        /// What is looked for.
        what: &'static str,
        /// The names it may have.
        expected: &'static str,
        /// The columns that there are.
        found: Vec<String>,
    },
    /// A Parquet column of a type that is neither text nor number.
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
    /// No row can be used.
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
    /// The file is not what it was when it was first read.
    #[error("it was changed while the program ran")]
    Changed,
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// The row's number in the file, from 0.
    pub row: usize,
    /// The line where it begins, from 1, in files that have lines.
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
    /// Nothing between two line ends.
    #[error("it is blank")]
    Blank,
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    Utf8,
    /// A CSV record of another length than the header.
    #[error("it has {found} fields, the header has {expected}")]
    Fields {
        /// Fields of the record.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// A CSV record with a quoted field that goes on over the next rows.
    #[error("a quote in it is not closed: what follows up to the next quote is taken for the same field")]
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
        /// What was found.
        found: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// A text of nothing but space.
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
    #[error("label `{label}` is none of {}", listed(.known))]
    Label {
        /// The label.
        label: String,
        /// The labels that there are.
        known: Vec<String>,
    },
    /// More tokens than are taken.
    #[error("it has {tokens} tokens, more than the {limit} that are taken")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The most that are taken.
        limit: usize,
    },
    /// It gives no sample for another reason.
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

impl Reason {
    /// Why a row gives no sample.
    pub(crate) fn tokens(error: TokenizeError) -> Self {
        match error {
            TokenizeError::TooLong { tokens, limit } => Self::TooLong { tokens, limit },
            other => Self::Tokens(other.to_string()),
        }
    }
}

impl DatasetError {
    /// What bad rows are, where they are not allowed or there are no others.
    pub(super) fn of_bad_rows(mut bad: Vec<BadRow>, of: usize, allowed: bool) -> Self {
        if allowed && !bad.is_empty() { Self::AllBad { first: bad.swap_remove(0), of } } else { Self::Rows { bad, of } }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Rows { bad, .. } => match bad.first().map(|b| &b.reason) {
                Some(Reason::TooLong { .. }) => {
                    "cut long texts with --truncate, take a larger --max-length, or leave such rows out with --skip-bad-rows"
                }
                _ => "correct the rows, or leave such rows out with --skip-bad-rows",
            },
            Self::Columns { .. } => "name the columns: --text-column, --label-column, --prompt-column, …",
            Self::NoColumn { .. } => "column names are compared as they are, capitals included",
            Self::Codec { .. } => "write the file again with another compression",
            Self::Changed => "run again once nothing writes to the file",
            _ => return None,
        })
    }
}

/// Names for people, at most a dozen.
pub(crate) fn listed(names: &[String]) -> String {
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
