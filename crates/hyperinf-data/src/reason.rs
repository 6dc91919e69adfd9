use std::fmt;
use std::str::Utf8Error;
use std::sync::Arc;

use hyperinf_models::{MessageError, TokenizeError};

use crate::listed;

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
    /// The answers of a pair are the same.
    #[error("`{chosen}` and `{rejected}` are the same")]
    SamePair {
        /// The column of the chosen answer.
        chosen: String,
        /// That of the rejected one.
        rejected: String,
    },
    /// The answers of a pair are the same tokens.
    #[error("both answers are the same {tokens} tokens, perhaps because they were cut")]
    SameTokens {
        /// Their number.
        tokens: usize,
    },
    /// The model without its adapter failed on a pair.
    #[error("the reference of the pair cannot be computed: {error}")]
    Reference {
        /// Why.
        error: String,
    },
    /// A blank line between rows.
    #[error("it is blank")]
    Blank,
    /// JSON, but with a faulty object in it.
    #[error("{0}")]
    Content(String),
    /// A column that occurs twice in a JSON object.
    #[error("it has the key `{column}` twice")]
    RepeatedKey {
        /// The column's name.
        column: String,
    },
    /// Not UTF-8.
    #[error("it is not UTF-8: its byte {byte} is 0x{value:02X}")]
    Utf8 {
        /// The place of the first such byte in the row, from 0.
        byte: usize,
        /// Its value.
        value: u8,
    },
    /// A CSV record with more or fewer fields than the header.
    #[error("it has {found} fields, the header has {expected}")]
    Fields {
        /// Fields of the record.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
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
        known: Arc<[String]>,
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
    /// An image that cannot be used.
    #[error("image `{image}`: {error}")]
    Image {
        /// Its path, or its name.
        image: String,
        /// Why.
        error: String,
    },
    /// Not one image for each mark.
    #[error("it has {marks} marks of images (`<image>`, or parts of type `image`) and {images} images")]
    ImageCount {
        /// The marks.
        marks: usize,
        /// The images.
        images: usize,
    },
    /// Another number of images than one.
    #[error("it has {images} images, expected one in column `{column}`")]
    OneImage {
        /// The column's name.
        column: String,
        /// The images.
        images: usize,
    },
    /// Features of a row's images that cannot be computed or stored.
    #[error("its images: {error}")]
    Features {
        /// Why.
        error: String,
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
    pub(crate) fn utf8(row: &[u8], error: &Utf8Error) -> Self {
        let byte = error.valid_up_to();
        Self::Utf8 { byte, value: row.get(byte).copied().unwrap_or_default() }
    }

    /// Why a row cannot be parsed.
    pub(crate) fn json(error: &serde_json::Error, text: &str) -> Self {
        // The parser sees one row only, so its line number is meaningless.
        let detail = Self::detail(error, text);
        if error.is_data() {
            Self::Content(detail)
        } else {
            Self::Json(format!("{detail} at column {}", error.column()))
        }
    }

    /// The parser's words without the place; numbers that JSON does not have are named.
    pub(crate) fn detail(error: &serde_json::Error, text: &str) -> String {
        let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
        let rest = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
        match ["NaN", "Infinity"].into_iter().find(|word| rest.starts_with(word)) {
            Some(word) => format!("{word} is not a JSON number"),
            None => error.to_string().split(" at line ").next().unwrap_or_default().to_owned(),
        }
    }
}

impl From<TokenizeError> for Reason {
    fn from(error: TokenizeError) -> Self {
        match error {
            TokenizeError::TooLong { tokens, limit } => Self::TooLong { tokens, limit },
            other => Self::Tokens(other.to_string()),
        }
    }
}
