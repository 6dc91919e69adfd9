//! Text of strangers on a terminal: labels, ids, names of columns and files.
//!
//! Everything that the program prints goes through here. Control characters, and those that turn the direction of a
//! line, become visible as `\u001b`; inside of JSON that is another spelling of the same text. Files get the text as it
//! is.

use std::borrow::Cow;
use std::io::{self, Write, stderr};

/// The most characters of one message.
const LONGEST: usize = 4_000;

/// Whether a terminal would do something else than show the character.
fn acts(c: char) -> bool {
    let turns = matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() && c != '\n' && c != '\t' || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The text with all characters visible that a terminal would act on, but for line ends and tabs.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// A name, such as a label or an id, on one line.
pub(crate) fn name(text: &str) -> String {
    visible(text).replace('\n', "\\u000a").replace('\t', "\\u0009")
}

/// A message whose lines after the first are indented, so that none looks like another message.
pub(crate) fn message(text: &str) -> String {
    let short = match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    };
    visible(&short).replace('\n', "\n    ")
}

/// Writes a line to standard error.
pub(crate) fn tell(text: &str) {
    // Without standard error nobody reads it.
    let _ = writeln!(stderr(), "{}", visible(text));
}

/// Makes all that is written visible.
pub(crate) struct Visible<W> {
    to: W,
    /// The beginning of a character whose end has not been written yet.
    begun: Vec<u8>,
}

impl<W: Write> Visible<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to, begun: Vec::new() }
    }
}

impl<W: Write> Write for Visible<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.begun) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.begun.len(),
        };
        let rest = self.begun.split_off(whole);
        let text = std::mem::replace(&mut self.begun, rest);
        self.to.write_all(visible(&String::from_utf8_lossy(&text)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
