//! Texts of strangers on a terminal, and sizes.

/// Characters of a long text that are shown of its beginning and of its end.
const SHOWN: [usize; 2] = [60, 30];

/// A text on one line; of a long one the beginning and the end, where completions are.
pub(crate) fn excerpt(text: &str) -> String {
    // What strangers write is not sent to a terminal unseen.
    let words: Vec<&str> = text.split_whitespace().collect();
    let visible: Vec<char> = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    let [begin, end] = SHOWN;
    if visible.len() <= begin + end + 3 {
        return visible.into_iter().collect();
    }
    let (begin, end): (String, String) =
        (visible[..begin].iter().collect(), visible[visible.len() - end..].iter().collect());
    format!("{begin} … {end}")
}

/// A number of bytes in the largest unit of which there are some.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
