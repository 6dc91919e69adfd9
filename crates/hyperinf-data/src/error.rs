use std::io;

use crate::table::ENDINGS;
use crate::{BadRow, CsvError};

/// Names listed in one message at most.
const LISTED: usize = 12;

/// Why a file cannot be used as a data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("it cannot be read")]
    Open(#[source] io::Error),
    /// A folder that is no folder of images.
    #[error(
        "it is a folder without `metadata.jsonl`, `metadata.csv` or `metadata.parquet`, and without images in folders of their classes"
    )]
    Folder,
    /// Folders inside of each other, beyond the limit.
    #[error(
        "`{}` is more than {limit} folders deep, which a link to a folder around it would be as well", path.display()
    )]
    Depth {
        /// The folder within the data set.
        path: std::path::PathBuf,
        /// The limit.
        limit: usize,
    },
    /// No format has this ending.
    #[error("its name must end in {}", ENDINGS.join(", "))]
    Ending,
    /// No rows at all.
    #[error("it has no rows")]
    Empty,
    /// A text file in UTF-16.
    #[error("it is UTF-16, expected UTF-8")]
    Utf16,
    /// The header of a CSV file or a whole JSON array is not UTF-8.
    #[error("line {line}: it is not UTF-8: byte {byte} of the file is 0x{value:02X}")]
    Utf8 {
        /// The line, from 1.
        line: usize,
        /// The place of the first such byte in the file, from 0.
        byte: usize,
        /// Its value.
        value: u8,
    },
    /// Quotes of a CSV file that make the ends of its fields uncertain.
    #[error("it is not CSV as in RFC 4180: {0}")]
    Csv(CsvError),
    /// A TSV file whose quotes are those of CSV.
    #[error(
        "line {line}: all quotes in it are written as in CSV, but a .tsv file has no quotes, only characters; write it as .csv or .jsonl"
    )]
    QuotedTsv {
        /// The first line with a doubled quote, from 1.
        line: usize,
    },
    /// An array in a file that should have one object per line.
    #[error("it is one JSON array, not one object per line: rename it to end in .json, where an array of rows is read")]
    ArrayOfLines,
    /// One object over several lines.
    #[error("it is one JSON object, expected one object per line, or in a .json file an array of objects")]
    OneObject,
    /// A JSON array that is not JSON.
    #[error("it is one JSON array, and not JSON: {detail} at line {line}, column {column}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 1.
        column: usize,
        /// What is wrong.
        detail: String,
    },
    /// Several columns with the name of one that is read.
    #[error("it has several columns named `{column}`, which is read")]
    DuplicateColumn {
        /// The column's name.
        column: String,
    },
    /// A column was named for a part that is not read.
    #[error("`{column}` is named as the column of the {role}, which is not read here: of these rows {} is", listed(.read))]
    UnusedColumn {
        /// The part.
        role: &'static str,
        /// The column's name.
        column: String,
        /// The parts that are read.
        read: Vec<String>,
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
    /// A Parquet schema that is nested too deeply.
    #[error("its columns are nested more than {limit} deep")]
    Schema {
        /// The deepest that is read.
        limit: usize,
    },
    /// A Parquet schema that claims more columns than it has.
    #[error("it is damaged: its schema claims more columns than it has")]
    SchemaClaims,
    /// The header of a page of a Parquet file cannot be read.
    #[error(
        "it is damaged: the header of a page of column `{column}` in row group {row_group} cannot be read, after {values} of {claimed} values"
    )]
    PageHeader {
        /// The row group, from 0.
        row_group: usize,
        /// The column.
        column: String,
        /// The values of the pages before it.
        values: u64,
        /// The values that the column claims.
        claimed: u64,
    },
    /// The rows of a Parquet file and those of its row groups.
    #[error("it is damaged: it claims {claimed} rows, and its row groups {}", .groups.map_or("more than can be counted, or fewer than none".into(), |rows| rows.to_string()))]
    FileRows {
        /// The rows of the file.
        claimed: i64,
        /// The sum over the row groups; `None` if it overflows.
        groups: Option<i64>,
    },
    /// A row group of a Parquet file has other rows than it claims.
    #[error("it is damaged: row group {row_group} claims {claimed} rows and has {found}")]
    RowCount {
        /// The row group, from 0.
        row_group: usize,
        /// The rows that it claims.
        claimed: i64,
        /// Those that were read.
        found: usize,
    },
    /// A Parquet file unpacks to more than the limit.
    #[error(
        "row group {row_group}{} unpacks to {} or more, from a file of {}: the limit is {}",
        .column.as_ref().map_or(String::new(), |column| format!(", column `{column}`")),
        size(*.unpacked), size(*.packed), size(*.limit)
    )]
    Unpacked {
        /// The row group, from 0.
        row_group: usize,
        /// The column, if it is one alone.
        column: Option<String>,
        /// What was unpacked, or is claimed, in bytes.
        unpacked: u64,
        /// The file's length.
        packed: u64,
        /// The limit.
        limit: u64,
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
    /// Two labels that are one truth value in different spellings.
    #[error("its labels `{one}` and `{other}` are one truth value in two spellings")]
    AlikeLabels {
        /// The first.
        one: String,
        /// The second.
        other: String,
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

impl From<CsvError> for DataError {
    fn from(error: CsvError) -> Self {
        Self::Csv(error)
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

/// A number of bytes in its largest unit.
pub(crate) fn size(bytes: u64) -> String {
    let of = |unit: u32| bytes as f64 / f64::from(unit);
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.0} kB", of(1_000)),
        1_000_000..1_000_000_000 => format!("{:.0} MB", of(1_000_000)),
        _ => format!("{:.1} GB", of(1_000_000_000)),
    }
}

fn rows(bad: &[BadRow], of: usize) -> String {
    let first = bad.first().map(BadRow::to_string).unwrap_or_default();
    match bad.len() {
        1 => first,
        count => format!("{count} of {of} rows cannot be used; the first is {first}"),
    }
}
