/// A text as HTML, inside of elements and of quoted attributes. Control characters, and those that turn the direction of
/// text around, are spelled out.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                out.push_str(&format!("U+{:04X}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out
}

/// The first characters of a text, and the number of all if that is more.
pub(crate) fn cut(text: &str, limit: usize) -> (&str, Option<usize>) {
    // Most texts are short: a byte is at most a character.
    if text.len() <= limit {
        return (text, None);
    }
    match text.char_indices().nth(limit) {
        None => (text, None),
        Some((end, _)) => (&text[..end], Some(text.chars().count())),
    }
}
