use std::str;

use serde::de::IgnoredAny;
use serde_json::Deserializer;

use crate::jsonl::{BYTE_ORDER_MARK, Names, collect};
use crate::table::{Layout, Place, Scanned};
use crate::{DataError, Reason};

/// One array of objects; the file must be JSON as a whole.
pub(crate) fn scan(contents: &[u8]) -> Result<Scanned, DataError> {
    let mark = if contents.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let text = str::from_utf8(&contents[mark..]).map_err(|error| {
        let valid = mark + error.valid_up_to();
        DataError::Utf8 { line: 1 + newlines(&contents[..valid]), byte: valid, value: contents[valid] }
    })?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| {
        let detail = Reason::detail(&error, text);
        DataError::Json { line: error.line(), column: error.column(), detail }
    })?;
    let (mut places, mut spans) = (Vec::new(), Vec::new());
    let mut columns = Names::default();
    let after = |at: usize| at + contents[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let (mut at, mut line) = (after(after(mark) + 1), 1);
    let mut counted = 0;
    while contents.get(at).is_some_and(|&byte| byte != b']') {
        let mut element = Deserializer::from_slice(&contents[at..]).into_iter::<IgnoredAny>();
        // The file is known to be valid, so there is an element.
        let Some(Ok(_)) = element.next() else { break };
        let span = at..at + element.byte_offset();
        line += newlines(&contents[counted..at]);
        counted = at;
        let bad = collect(&contents[span.clone()], &mut columns).err().map(Box::new);
        places.push(Place { line, bad });
        at = after(span.end);
        if contents.get(at) == Some(&b',') {
            at = after(at + 1);
        }
        spans.push(span);
    }
    let first = spans.first().map_or(at, |span| span.start);
    let last = spans.last().map_or(at, |span| span.end);
    let layout = Layout { header: 0..first, spans, footer: last..contents.len() };
    Ok(Scanned { columns: columns.in_order(), places, layout })
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}
