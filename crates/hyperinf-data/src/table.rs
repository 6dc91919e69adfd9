use std::collections::{BTreeMap, HashSet};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hyperinf_models::{Json, read_regular};
use twox_hash::XxHash3_128;

use crate::{BadRow, DataError, ReadOptions, Reason, delimited, image_folder, json_array, jsonl, parquet};

/// The file name endings of the formats.
pub(crate) const ENDINGS: [&str; 6] = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"];

/// What a file may unpack to beyond [`UNPACKED_FACTOR`] times its own size.
const UNPACKED_BASE: u64 = 192 << 20;
const UNPACKED_FACTOR: u64 = 10;

/// The format of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// One JSON array of objects.
    JsonArray,
    /// A header and records, with this byte between their fields: CSV, and TSV, which has no quotes.
    Delimited(u8),
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The format of a file, by the ending of its name. A `.json` file may turn out to be an array.
    ///
    /// # Errors
    ///
    /// [`DataError::Ending`] if no format has this ending.
    pub fn of(path: &Path) -> Result<Self, DataError> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("jsonl" | "ndjson" | "json") => Ok(Self::Jsonl),
            Some("csv") => Ok(Self::Delimited(b',')),
            Some("tsv") => Ok(Self::Delimited(b'\t')),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(DataError::Ending),
        }
    }
}

/// A file of rows, before any column has a meaning. Its cells are read when they are asked for.
pub(crate) struct Table {
    pub(crate) format: Format,
    /// The names of all columns, in order.
    pub(crate) columns: Vec<String>,
    /// The names that several columns have.
    pub(crate) repeated: HashSet<String>,
    /// Columns of a type that is not read (binary, dates, …), with that type.
    pub(crate) unreadable: BTreeMap<String, String>,
    /// Unreadable columns that hold bytes, which may be images.
    binary: HashSet<String>,
    /// The folder of the file.
    pub(crate) folder: PathBuf,
    pub(crate) layout: Layout,
    /// The file's length.
    pub(crate) bytes: u64,
    /// XXH3 of the whole file, 128 bits.
    pub(crate) xxh3_128: String,
    source: Source,
}

enum Source {
    Text { contents: Bytes, places: Vec<Place> },
    Parquet(parquet::Source),
}

/// Where the rows of a text file are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// The bytes before the first row.
    pub(crate) header: Range<usize>,
    /// The bytes of each row, bad ones too; none for Parquet.
    pub(crate) spans: Vec<Range<usize>>,
    /// The bytes after the last row.
    pub(crate) footer: Range<usize>,
}

/// What a first look at a text file finds.
pub(crate) struct Scanned {
    pub(crate) columns: Vec<String>,
    pub(crate) places: Vec<Place>,
    pub(crate) layout: Layout,
}

/// A row of a text file.
pub(crate) struct Place {
    /// The line where it begins, from 1.
    pub(crate) line: usize,
    /// Why it cannot be read, whatever column is asked for.
    pub(crate) bad: Option<Box<Reason>>,
}

/// A row with the cells that were asked for, in that order.
pub(crate) struct RawRow {
    /// The line where it begins, from 1; `None` for Parquet.
    pub(crate) line: Option<usize>,
    pub(crate) cells: Result<Vec<Option<Json>>, Reason>,
}

/// Sees the rows of a table.
pub(crate) type Visit<'a> = dyn FnMut(RawRow) -> ControlFlow<()> + 'a;

impl Table {
    pub(crate) fn open(path: &Path, options: &ReadOptions) -> Result<Self, DataError> {
        let file = image_folder::rows_file(path);
        let format = Format::of(&file)?;
        let contents = Bytes::from(contents(path)?);
        let path = file.as_path();
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        if contents.is_empty() {
            return Err(DataError::Empty);
        }
        let (bytes, xxh3_128) = (contents.len() as u64, fingerprint(&contents));
        if format == Format::Parquet {
            let limit = options.unpacked.unwrap_or(UNPACKED_BASE.saturating_add(bytes.saturating_mul(UNPACKED_FACTOR)));
            let source = parquet::Source::open(contents, limit)?;
            if source.rows() == 0 {
                return Err(DataError::Empty);
            }
            let (columns, unreadable) = (source.columns(), source.unreadable());
            let (repeated, binary) = (repeated(&columns), source.binary());
            let (layout, source) = (Layout::default(), Source::Parquet(source));
            return Ok(Self { format, columns, repeated, unreadable, binary, folder, layout, bytes, xxh3_128, source });
        }
        if contents.starts_with(b"\xff\xfe") || contents.starts_with(b"\xfe\xff") {
            return Err(DataError::Utf16);
        }
        let format = if format == Format::Jsonl { json_format(path, &contents)? } else { format };
        let Scanned { columns, places, layout } = match format {
            Format::JsonArray => json_array::scan(&contents)?,
            Format::Delimited(delimiter) => delimited::scan(&contents, delimiter)?,
            Format::Jsonl | Format::Parquet => jsonl::scan(&contents)?,
        };
        if places.is_empty() {
            return Err(DataError::Empty);
        }
        let (repeated, unreadable, binary) = (repeated(&columns), BTreeMap::new(), HashSet::new());
        let source = Source::Text { contents, places };
        Ok(Self { format, columns, repeated, unreadable, binary, folder, layout, bytes, xxh3_128, source })
    }

    /// Whether a column holds bytes.
    pub(crate) fn is_binary(&self, column: &str) -> bool {
        self.binary.contains(column)
    }

    /// The number of rows.
    pub(crate) fn rows(&self) -> usize {
        match &self.source {
            Source::Text { places, .. } => places.len(),
            Source::Parquet(source) => source.rows(),
        }
    }

    /// Visits the rows with the cells of some columns, which must be columns of the table.
    pub(crate) fn visit(&self, wanted: &[&str], visit: &mut Visit<'_>) -> Result<(), DataError> {
        let (contents, places) = match &self.source {
            Source::Parquet(source) => return source.visit(wanted, visit),
            Source::Text { contents, places } => (contents, places),
        };
        let position = |name: &&str| self.columns.iter().position(|column| column == name);
        let positions: Vec<Option<usize>> = wanted.iter().map(position).collect();
        for (place, span) in places.iter().zip(&self.layout.spans) {
            let row = &contents[span.clone()];
            let cells = match (&place.bad, self.format) {
                (Some(reason), _) => Err((**reason).clone()),
                (None, Format::Delimited(delimiter)) => delimited::cells(row, delimiter, &positions),
                (None, _) => jsonl::cells(row, wanted),
            };
            if visit(RawRow { line: Some(place.line), cells }).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Whether a column has a value in any row: neither nothing nor an empty text.
    pub(crate) fn holds_values(&self, column: &str) -> Result<bool, DataError> {
        let mut found = false;
        self.visit(&[column], &mut |row| {
            found = row.cells.is_ok_and(|cells| match cells.first() {
                None | Some(None | Some(Json::Null)) => false,
                Some(Some(Json::String(text))) => !text.is_empty(),
                Some(Some(_)) => true,
            });
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found)
    }

    /// The reasons of all rows, if not a single row can be read.
    pub(crate) fn unreadable_rows(&self) -> Option<Vec<BadRow>> {
        let Source::Text { places, .. } = &self.source else { return None };
        let bad = |(row, place): (usize, &Place)| {
            Some(BadRow { row, line: Some(place.line), reason: (**place.bad.as_ref()?).clone() })
        };
        places.iter().enumerate().map(bad).collect()
    }
}

/// One object per line, or one array, by the first character.
fn json_format(path: &Path, contents: &[u8]) -> Result<Format, DataError> {
    let text = contents.strip_prefix(jsonl::BYTE_ORDER_MARK).unwrap_or(contents);
    if text.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return Ok(Format::Jsonl);
    }
    match path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
        true => Ok(Format::JsonArray),
        false => Err(DataError::ArrayOfLines),
    }
}

fn repeated(columns: &[String]) -> HashSet<String> {
    let mut seen = HashSet::with_capacity(columns.len());
    columns.iter().filter(|name| !seen.insert(name.as_str())).cloned().collect()
}

/// The bytes of a regular file, or the rows of a folder of images.
pub(crate) fn contents(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = image_folder::rows_file(path);
    if path.is_dir() && !file.exists() {
        return image_folder::classes(path);
    }
    read_regular(&file).map_err(DataError::Open)
}

/// XXH3 with 128 bits, in hexadecimal.
pub(crate) fn fingerprint(contents: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(contents))
}
