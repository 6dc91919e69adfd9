//! Texts of strangers on a terminal, and sizes.

/// Characters of a long text that are shown of its beginning and of its end.
const SHOWN: [usize; 2] = [60, 30];

/// Characters that are shown around the first difference of two long texts, and of it those before.
const AROUND: [usize; 2] = [40, 10];

/// A text on one line; of a long one the beginning and the end, where completions are.
pub(crate) fn excerpt(text: &str) -> String {
    cut(&line(text))
}

/// The excerpts of several texts. Of long texts that begin and end alike it shows where they differ, too.
pub(crate) fn excerpts(texts: &[&str]) -> Vec<String> {
    let lines: Vec<Vec<char>> = texts.iter().map(|text| line(text)).collect();
    let plain: Vec<String> = lines.iter().map(|line| cut(line)).collect();
    let excerpt = |place: usize| {
        let line = &lines[place];
        let alike = (0..lines.len()).filter(|&other| plain[other] == plain[place] && lines[other] != *line);
        let equal = |other: usize| line.iter().zip(&lines[other]).take_while(|(one, other)| one == other).count();
        alike.map(equal).max().map_or_else(|| plain[place].clone(), |at| around(line, at))
    };
    (0..lines.len()).map(excerpt).collect()
}

/// A text on one line.
fn line(text: &str) -> Vec<char> {
    // What strangers write is not sent to a terminal unseen.
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).collect()
}

fn cut(line: &[char]) -> String {
    let [begin, end] = SHOWN;
    if line.len() <= begin + end + 3 {
        return line.iter().collect();
    }
    let (begin, end): (String, String) = (line[..begin].iter().collect(), line[line.len() - end..].iter().collect());
    format!("{begin} … {end}")
}

/// The beginning of a long text, what surrounds a place, and its end.
fn around(line: &[char], at: usize) -> String {
    let [length, before] = AROUND;
    let [begin, end] = SHOWN.map(|shown| shown / 2);
    let from = at.saturating_sub(before);
    let parts = [0..begin, from..(from + length).min(line.len()), line.len() - end..line.len()];
    let parts = parts.map(|part| line[part].iter().collect::<String>());
    parts.join(" … ")
}

/// A number of bytes in the largest unit of which there are some.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
