//! Texts of strangers on a terminal.

/// Characters of a text that are shown.
const EXCERPT: usize = 90;

/// The beginning of a text on one line.
pub(crate) fn excerpt(text: &str) -> String {
    // What strangers write is not sent to a terminal unseen.
    let visible = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let visible: Vec<char> = visible.chars().filter(|c| !c.is_control()).collect();
    let shown: String = visible.iter().take(EXCERPT).collect();
    if visible.len() > EXCERPT { shown + " …" } else { shown }
}
