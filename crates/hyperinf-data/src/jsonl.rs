use std::str;

use serde_json::Value;

use crate::Reason;
use crate::table::{Format, RawRow, Table};

/// One JSON object per line; blank lines at the end are skipped.
pub(crate) fn read(contents: &[u8]) -> Table {
    let mut rows = Vec::new();
    let mut columns: Vec<String> = Vec::new();
    let mut start = 0;
    for (number, line) in contents.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let span = start..start + line.len();
        start = span.end;
        // Some editors write a byte order mark.
        let line = if number == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let cells = match parse(line) {
            Ok(Value::Object(cells)) => Ok(cells),
            Ok(_) => Err(Reason::NotObject),
            Err(reason) => Err(reason),
        };
        for name in cells.iter().flat_map(|cells| cells.keys()) {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        rows.push(RawRow { line: Some(number + 1), span, cells });
    }
    while rows.pop_if(|row| row.cells == Err(Reason::Blank)).is_some() {}
    Table {
        format: Format::Jsonl,
        columns,
        unreadable: Default::default(),
        rows,
        header: 0..0,
        bytes: 0,
        xxh3_128: String::new(),
    }
}

fn parse(line: &[u8]) -> Result<Value, Reason> {
    let text = str::from_utf8(line).map_err(|_| Reason::Utf8)?;
    if text.trim().is_empty() {
        return Err(Reason::Blank);
    }
    serde_json::from_str(text).map_err(|error| {
        // The parser sees one line only, so its line number is meaningless.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        Reason::Json(format!("{message} at column {}", error.column()))
    })
}
