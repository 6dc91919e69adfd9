use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::str;

use hyperinf_models::Json;

use crate::jsonl::BYTE_ORDER_MARK;
use crate::table::{Layout, Place, Scanned};
use crate::{DataError, Reason};

/// A quote or a carriage return that RFC 4180 does not allow, which makes the ends of fields uncertain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvError {
    /// Its line, from 1.
    pub line: usize,
    /// Its character in the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub fault: CsvFault,
}

/// What is wrong with a CSV file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CsvFault {
    /// A quote that opens a field and is never closed.
    Open,
    /// Text between the closing quote of a field and the next delimiter.
    AfterQuote {
        /// The line where the field begins, from 1.
        begun: usize,
        /// Whether the quote follows a backslash, as Spark escapes quotes.
        backslash: bool,
    },
    /// A quote in a field that does not begin with one.
    Inside,
    /// A carriage return outside of quotes that ends no line.
    Return,
}

impl std::error::Error for CsvError {}

impl fmt::Display for CsvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        match self.fault {
            CsvFault::Open => f.write_str("the quote that opens this field is never closed"),
            CsvFault::AfterQuote { backslash: true, .. } => f.write_str(
                "a quote is escaped by a backslash, as Spark does; RFC 4180 writes it twice, between quotes: \"\"",
            ),
            CsvFault::AfterQuote { begun, .. } => {
                f.write_str("text follows the closing quote of a field")?;
                if begun < self.line {
                    write!(f, " that begins in line {begun}")?;
                }
                f.write_str("; a quote inside a quoted field is written twice")
            }
            CsvFault::Inside => f.write_str(
                "a quote in a field that does not begin with one; such a field is quoted, and each quote in it written twice",
            ),
            CsvFault::Return => f.write_str("a carriage return that ends no line, outside of quotes"),
        }
    }
}

/// How the fields of a file are separated.
#[derive(Clone, Copy)]
struct Dialect {
    delimiter: u8,
    /// Whether quotes mean anything.
    quotes: bool,
    /// The last byte of a line.
    line_end: u8,
}

/// A header and records: CSV as in RFC 4180; TSV without quotes, as GLUE writes it. Blank lines are skipped.
pub(crate) fn scan(contents: &[u8], delimiter: u8) -> Result<Scanned, DataError> {
    // Old Macintosh programs end lines with a carriage return alone.
    let old = !contents.contains(&b'\n') && contents.contains(&b'\r');
    let dialect = Dialect { delimiter, quotes: quotes(delimiter), line_end: if old { b'\r' } else { b'\n' } };
    let mut at = if contents.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let (mut line, mut header) = (1, None);
    let (mut columns, mut places, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    let mut quoting = Quoting::default();
    while at < contents.len() {
        let (end, fields) = record(contents, at, dialect)?;
        let row = &contents[at..end];
        let blank = row.iter().all(|byte| matches!(byte, b'\n' | b'\r'));
        if !dialect.quotes {
            quoting.see(row, line, delimiter);
        }
        match &header {
            None if blank => {}
            None => {
                columns = names(row, delimiter, line, at)?;
                header = Some(0..end);
            }
            Some(_) if blank => {}
            Some(_) => {
                let bad = match str::from_utf8(row) {
                    _ if fields != columns.len() => Some(Reason::Fields { found: fields, expected: columns.len() }),
                    Ok(_) => None,
                    Err(error) => Some(Reason::utf8(row, &error)),
                };
                places.push(Place { line, bad: bad.map(Box::new) });
                spans.push(at..end);
            }
        }
        line += row.iter().filter(|&&byte| byte == dialect.line_end).count();
        at = end;
    }
    if let Some(line) = quoting.as_in_csv(places.len()) {
        return Err(DataError::QuotedTsv { line });
    }
    let header = header.unwrap_or_default();
    let layout = Layout { header, spans, footer: contents.len()..contents.len() };
    Ok(Scanned { columns, places, layout })
}

/// The cells of a row that was scanned, at some positions.
pub(crate) fn cells(row: &[u8], delimiter: u8, wanted: &[Option<usize>]) -> Result<Vec<Option<Json>>, Reason> {
    let mut cells = vec![None; wanted.len()];
    for (position, field) in fields(row, delimiter).enumerate() {
        for (cell, wanted) in cells.iter_mut().zip(wanted) {
            if *wanted == Some(position) {
                let text = str::from_utf8(&field).map_err(|error| Reason::utf8(&field, &error))?;
                *cell = Some(Json::String(text.to_owned()));
            }
        }
    }
    Ok(cells)
}

/// Commas come with the quotes of RFC 4180, tabs without.
fn quotes(delimiter: u8) -> bool {
    delimiter != b'\t'
}

fn names(row: &[u8], delimiter: u8, line: usize, at: usize) -> Result<Vec<String>, DataError> {
    let text = |field: Cow<'_, [u8]>| String::from_utf8(field.into_owned());
    let names: Result<Vec<String>, _> = fields(row, delimiter).map(text).collect();
    names.map_err(|_| {
        let valid = str::from_utf8(row).map_or_else(|error| error.valid_up_to(), str::len);
        DataError::Utf8 { line, byte: at + valid, value: row.get(valid).copied().unwrap_or_default() }
    })
}

/// The end of the record that begins at a byte, with its line end, and the number of its fields.
fn record(contents: &[u8], start: usize, dialect: Dialect) -> Result<(usize, usize), CsvError> {
    let Dialect { delimiter, quotes, line_end } = dialect;
    let line_break = |at: usize| contents[at] == b'\r' && line_end == b'\n' && contents.get(at + 1) == Some(&b'\n');
    let fault = |at: usize, fault| Err(located(contents, at, line_end, fault));
    let (mut at, mut fields) = (start, 1);
    loop {
        let begun = at;
        let quoted = quotes && contents.get(at) == Some(&b'"');
        if quoted {
            at += 1;
            loop {
                match contents.get(at) {
                    None => return fault(begun, CsvFault::Open),
                    Some(b'"') if contents.get(at + 1) == Some(&b'"') => at += 2,
                    Some(b'"') => break,
                    Some(_) => at += 1,
                }
            }
            at += 1;
        }
        loop {
            match contents.get(at) {
                None => return Ok((at, fields)),
                Some(&byte) if byte == line_end => return Ok((at + 1, fields)),
                Some(_) if line_break(at) => return Ok((at + 2, fields)),
                Some(&byte) if byte == delimiter => break,
                Some(_) if quoted => {
                    let begun = located(contents, begun, line_end, CsvFault::Open).line;
                    let backslash = contents.get(at.wrapping_sub(2)) == Some(&b'\\');
                    return fault(at, CsvFault::AfterQuote { begun, backslash });
                }
                Some(b'"') if quotes => return fault(at, CsvFault::Inside),
                Some(b'\r') if quotes => return fault(at, CsvFault::Return),
                Some(_) => at += 1,
            }
        }
        at += 1;
        fields += 1;
    }
}

fn located(contents: &[u8], at: usize, line_end: u8, fault: CsvFault) -> CsvError {
    let before = &contents[..at];
    let line = 1 + before.iter().filter(|&&byte| byte == line_end).count();
    let begin = before.iter().rposition(|&byte| byte == line_end).map_or(0, |end| end + 1);
    let column = String::from_utf8_lossy(&before[begin..]).trim_start_matches('\u{feff}').chars().count() + 1;
    CsvError { line, column, fault }
}

/// The fields of a record that was scanned.
fn fields(row: &[u8], delimiter: u8) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let row = row.strip_suffix(b"\n").unwrap_or(row);
    let row = row.strip_suffix(b"\r").unwrap_or(row);
    let mut rest = Some(row);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let quoted = quotes(delimiter) && text.first() == Some(&b'"');
        let inner = if quoted { closing(text) } else { 0..0 };
        let end = text[inner.end..].iter().position(|&byte| byte == delimiter).map(|place| inner.end + place);
        rest = end.map(|end| &text[end + 1..]);
        Some(if quoted { unescaped(&text[inner]) } else { Cow::Borrowed(&text[..end.unwrap_or(text.len())]) })
    })
}

/// What is between the quotes of a field that begins with one.
fn closing(text: &[u8]) -> Range<usize> {
    let mut at = 1;
    while text.get(at).is_some_and(|&byte| byte != b'"' || text.get(at + 1) == Some(&b'"')) {
        at += if text[at] == b'"' { 2 } else { 1 };
    }
    1..at.min(text.len())
}

/// Doubled quotes as single ones.
fn unescaped(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'"') {
        return Cow::Borrowed(text);
    }
    let mut escaped = false;
    let keep = |&&byte: &&u8| {
        escaped = byte == b'"' && !escaped;
        !escaped
    };
    Cow::Owned(text.iter().filter(keep).copied().collect())
}

/// Whether the quotes of a TSV file are those of a program that quotes as in CSV.
#[derive(Default)]
struct Quoting {
    /// Some field has quotes that are plain characters.
    plain: bool,
    /// The first line with a field in quotes.
    first: Option<usize>,
    /// Lines with a field in quotes.
    lines: usize,
    /// Whether a quote inside such a field is written twice.
    doubled: bool,
}

impl Quoting {
    fn see(&mut self, row: &[u8], line: usize, delimiter: u8) {
        if self.plain || !row.contains(&b'"') {
            return;
        }
        for field in fields(row, delimiter).filter(|field| field.contains(&b'"')) {
            let inner = field.strip_prefix(b"\"").and_then(|field| field.strip_suffix(b"\""));
            match inner.map(|inner| (inner, unescaped(inner))) {
                Some((inner, plain)) if 2 * (inner.len() - plain.len()) == quotes_in(inner) => {
                    self.doubled |= plain.len() < inner.len();
                }
                _ => self.plain = true,
            }
        }
        self.first.get_or_insert(line);
        self.lines += 1;
    }

    /// The first quoted line, if all quotes are as in CSV and that cannot be chance: one is doubled, or every one of
    /// several rows has a field in quotes.
    fn as_in_csv(&self, rows: usize) -> Option<usize> {
        self.first.filter(|_| !self.plain && (self.doubled || rows > 1 && self.lines >= rows))
    }
}

fn quotes_in(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte == b'"').count()
}
