//! The tags `generation` and `endgeneration` of transformers.

/// The function whose call block stands for a `generation` block.
pub(super) const GENERATION: &str = "__generation__";

/// A template whose `generation` blocks are call blocks, which Jinja's parser knows, and how many there are. `None` if
/// they do not end as often as they begin.
pub(super) fn as_calls(source: &str) -> Option<(String, usize)> {
    let mut result = String::with_capacity(source.len());
    let (mut begun, mut ended) = (0, 0);
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let Some(kind) = rest[start..].chars().nth(1).filter(|kind| matches!(kind, '%' | '{' | '#')) else {
            let (before, after) = rest.split_at(start + 1);
            result.push_str(before);
            rest = after;
            continue;
        };
        result.push_str(&rest[..start]);
        rest = &rest[start..];
        let Some(length) = tag_length(rest, kind) else {
            break;
        };
        let (tag, after) = rest.split_at(length);
        rest = after;
        let trimmed = |c: char| c.is_whitespace() || c == '-' || c == '+';
        let word = tag.get(2..tag.len().saturating_sub(2)).unwrap_or_default().trim_matches(trimmed);
        match word {
            "generation" if kind == '%' => {
                begun += 1;
                result.push_str(&tag.replacen(word, &format!("call {GENERATION}()"), 1));
            }
            "endgeneration" if kind == '%' => {
                ended += 1;
                result.push_str(&tag.replacen(word, "endcall", 1));
            }
            // Jinja knows no such tag.
            "raw" if kind == '%' && tag.ends_with("+%}") => result.push_str(&tag.replacen("raw", "raw_plus", 1)),
            "raw" if kind == '%' => {
                result.push_str(tag);
                // Jinja keeps the line end after `raw`, minijinja drops one.
                if rest.starts_with('\n') && !tag.ends_with("-%}") {
                    result.push('\n');
                }
                let end = raw_length(rest);
                result.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => result.push_str(tag),
        }
    }
    result.push_str(rest);
    (begun == ended).then_some((result, begun))
}

/// The bytes of the tag at the beginning: to its end, where no text in quotes stands.
fn tag_length(text: &str, kind: char) -> Option<usize> {
    let end = match kind {
        '%' => "%}",
        '{' => "}}",
        _ => return text.find("#}").map(|at| at + 2),
    };
    let mut characters = text.char_indices().skip(2);
    while let Some((at, c)) = characters.next() {
        if text[at..].starts_with(end) {
            return Some(at + 2);
        }
        if c == '"' || c == '\'' {
            while let Some((_, inside)) = characters.next() {
                match inside {
                    '\\' => drop(characters.next()),
                    _ if inside == c => break,
                    _ => {}
                }
            }
        }
    }
    None
}

/// The bytes before the tag `endraw`.
fn raw_length(text: &str) -> usize {
    let mut at = 0;
    while let Some(start) = text[at..].find("{%") {
        let inside = text[at + start + 2..].trim_start_matches(['-', '+']).trim_start();
        if inside.starts_with("endraw") {
            return at + start;
        }
        at += start + 2;
    }
    text.len()
}
