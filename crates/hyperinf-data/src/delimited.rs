use std::str;

use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Map, Value};

use crate::table::{Format, RawRow, Table, duplicate};
use crate::{DataError, Reason};

/// A header and records, quoted as in RFC 4180; blank lines are skipped.
pub(crate) fn read(contents: &[u8], delimiter: u8) -> Result<Table, DataError> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(contents);
    let columns: Vec<String> = reader.headers().map_err(DataError::Header)?.iter().map(str::to_owned).collect();
    if let Some(column) = duplicate(&columns) {
        return Err(DataError::DuplicateColumn { column });
    }
    let header = whole_line(contents, reader.position().byte() as usize);
    let mut rows: Vec<RawRow> = Vec::new();
    let mut record = ByteRecord::new();
    let (mut at, mut line) = (header, 1 + newlines(&contents[..header]));
    // Reading from memory fails for nothing but unequal lengths, which are allowed here.
    while reader.read_byte_record(&mut record).map_err(DataError::Header)? {
        let end = whole_line(contents, reader.position().byte() as usize);
        let blank = contents[at..end].iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        line += newlines(&contents[at..at + blank]);
        at += blank;
        let open = is_open(&contents[at..end], delimiter);
        let cells = if open { Err(Reason::OpenQuote) } else { cells(&record, &columns) };
        rows.push(RawRow { line: Some(line), span: at..end, cells });
        line += newlines(&contents[at..end]);
        at = end;
    }
    Ok(Table {
        format: Format::Delimited(delimiter),
        columns,
        unreadable: Default::default(),
        rows,
        header: 0..header,
        bytes: 0,
        xxh3_128: String::new(),
    })
}

fn cells(record: &ByteRecord, columns: &[String]) -> Result<Map<String, Value>, Reason> {
    if record.len() != columns.len() {
        return Err(Reason::Fields { found: record.len(), expected: columns.len() });
    }
    let cell = |(name, field): (&String, &[u8])| {
        let text = str::from_utf8(field).map_err(|_| Reason::Utf8)?;
        Ok((name.clone(), Value::String(text.to_owned())))
    };
    columns.iter().zip(record.iter()).map(cell).collect()
}

/// Whether a quoted field is never closed, or only by the quote of a later line: it then swallows other rows.
fn is_open(record: &[u8], delimiter: u8) -> bool {
    let mut rest = record;
    loop {
        let mut quoted = false;
        if let Some(text) = rest.strip_prefix(b"\"") {
            let mut at = 0;
            while text.get(at).is_some_and(|&byte| byte != b'"' || text.get(at + 1) == Some(&b'"')) {
                at += if text[at] == b'"' { 2 } else { 1 };
            }
            let Some(after) = text.get(at + 1..) else { return true };
            quoted = text[..at].contains(&b'\n');
            rest = after;
        }
        let length = rest.iter().position(|byte| [delimiter, b'\r', b'\n'].contains(byte)).unwrap_or(rest.len());
        if quoted && length > 0 {
            return true;
        }
        match rest.get(length) {
            Some(&byte) if byte == delimiter => rest = &rest[length + 1..],
            _ => return false,
        }
    }
}

/// The end of a record with its whole line end: the parser leaves the second half of `\r\n` to the next record.
fn whole_line(contents: &[u8], end: usize) -> usize {
    end + usize::from(end > 0 && contents[end - 1] == b'\r' && contents.get(end) == Some(&b'\n'))
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}
