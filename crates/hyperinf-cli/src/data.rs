//! Data sets: JSON lines, CSV and Parquet, as rows for a classifier or a language model.
//!
//! Nothing is left out in silence. A row that cannot be used is an error with its place and reason, or, where bad
//! rows are allowed, one of [`Dataset::bad`]; the ids of the others are those that they would have anyway: the row's
//! number in the file, from 0, or what a column says.

mod columns;
mod delimited;
mod error;
mod jsonl;
mod labels;
mod parquet;
mod subset;
mod table;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hyperinf::models::Message;
use hyperinf::scoring::Set;
use serde::Serialize;

use crate::args::ColumnArgs;
pub use columns::{Columns, ContentColumns};
pub(crate) use error::listed;
pub use error::{BadRow, DatasetError, Reason};
pub use labels::Labels;
pub use table::Format;
use table::Table;

/// What a model makes of texts, and so what rows must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextTask {
    /// One label for a text or a pair of texts.
    Classification,
    /// The next token.
    LanguageModel,
}

/// What a row holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// One or two texts and a label.
    Classified {
        /// The text.
        text: String,
        /// The second text.
        pair: Option<String>,
        /// The label's name.
        label: String,
    },
    /// What is given, which may be empty, and what follows.
    Completion {
        /// What is given.
        prompt: String,
        /// What follows.
        completion: String,
    },
    /// A text.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
}

impl Content {
    /// The label, if there is one.
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Classified { label, .. } => Some(label),
            _ => None,
        }
    }

    /// The content as one text for people.
    pub fn text(&self) -> String {
        match self {
            Self::Classified { text, pair: None, .. } | Self::Text(text) => text.clone(),
            Self::Classified { text, pair: Some(pair), .. } => format!("{text}\n{pair}"),
            Self::Completion { prompt, completion } => format!("{prompt}{completion}"),
            Self::Messages(messages) => {
                let line = |m: &Message| format!("{}: {}", m.role, m.content.as_deref().unwrap_or_default());
                let lines: Vec<String> = messages.iter().map(line).collect();
                lines.join("\n")
            }
        }
    }
}

/// A row that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its number in the file, from 0.
    pub row: usize,
    /// The line where it begins, from 1, in files that have lines.
    pub line: Option<usize>,
    /// Its own id, where a column holds ids.
    pub id: Option<String>,
    /// What it holds.
    pub content: Content,
}

/// A file of rows.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Where it is used.
    pub set: Set,
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its columns in use.
    pub columns: Columns,
    /// The rows that can be used, in order.
    pub rows: Vec<Row>,
    /// Those that cannot, in order; empty unless they are allowed.
    pub bad: Vec<BadRow>,
    /// All rows of the file.
    pub total: usize,
    /// The file's length.
    pub bytes: u64,
    /// XXH3 of the whole file, 128 bits.
    pub xxh3_128: String,
    header: Range<usize>,
    spans: Vec<Range<usize>>,
}

impl Dataset {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, its columns are not those that the task needs, or a row cannot be used and bad rows are
    /// not allowed.
    pub fn read(set: Set, path: &Path, task: TextTask, args: &ColumnArgs) -> Result<Self, DatasetError> {
        let table = Table::open(path)?;
        if let Some(bad) = table.unreadable_rows() {
            // Without a row that can be read there are no columns to speak of.
            return Err(DatasetError::of_bad_rows(bad, table.rows.len(), args.skip_bad_rows));
        }
        let columns = Columns::find(&table, task, args)?;
        let Table { format, rows: raw, header, bytes, xxh3_128, .. } = table;
        let (mut rows, mut bad) = (Vec::with_capacity(raw.len()), Vec::new());
        let mut spans = Vec::with_capacity(raw.len());
        let mut ids: HashMap<String, usize> = HashMap::new();
        for (row, raw) in raw.into_iter().enumerate() {
            let line = raw.line;
            spans.push(raw.span);
            let read = raw.cells.and_then(|cells| {
                let content = columns.content(&cells)?;
                let id = columns.id(&cells)?;
                if let Some(id) = &id {
                    let first = *ids.entry(id.clone()).or_insert(row);
                    if first != row {
                        return Err(Reason::Duplicate { id: id.clone(), first });
                    }
                }
                Ok(Row { row, line, id, content })
            });
            match read {
                Ok(row) => rows.push(row),
                Err(reason) => bad.push(BadRow { row, line, reason }),
            }
        }
        let (path, total) = (path.to_owned(), spans.len());
        let set = Self { set, path, format, columns, rows, bad, total, bytes, xxh3_128, header, spans };
        set.judged(args.skip_bad_rows)
    }

    /// Makes a value of each row; rows of which none can be made are bad.
    ///
    /// # Errors
    ///
    /// If a row is bad and bad rows are not allowed.
    pub fn convert<T>(
        mut self,
        skip_bad_rows: bool,
        mut convert: impl FnMut(&Row) -> Result<T, Reason>,
    ) -> Result<(Self, Vec<T>), DatasetError> {
        let mut values = Vec::with_capacity(self.rows.len());
        let mut rows = Vec::with_capacity(self.rows.len());
        for row in std::mem::take(&mut self.rows) {
            match convert(&row) {
                Ok(value) => {
                    values.push(value);
                    rows.push(row);
                }
                Err(reason) => self.bad.push(BadRow { row: row.row, line: row.line, reason }),
            }
        }
        self.rows = rows;
        self.bad.sort_by_key(|bad| bad.row);
        Ok((self.judged(skip_bad_rows)?, values))
    }

    /// Fails on bad rows, unless they are allowed and there are others.
    fn judged(mut self, skip_bad_rows: bool) -> Result<Self, DatasetError> {
        if self.bad.is_empty() || skip_bad_rows && !self.rows.is_empty() {
            return Ok(self);
        }
        Err(DatasetError::of_bad_rows(std::mem::take(&mut self.bad), self.total, skip_bad_rows))
    }
}
