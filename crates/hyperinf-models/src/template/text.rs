//! Python's text functions.

use super::error::{Outcome, fail};
use super::repr::printable;

/// White space, as Python's `str.isspace` has it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// The text without white space or other characters at its ends.
pub(super) fn strip<'a>(text: &'a str, characters: Option<&str>, left: bool, right: bool) -> &'a str {
    let inside = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    let text = if left { text.trim_start_matches(inside) } else { text };
    if right { text.trim_end_matches(inside) } else { text }
}

/// `split()` and `rsplit()` without a separator. What is left after the last split keeps the white space at its end.
pub(super) fn split_space(text: &str, most: Option<usize>, from_right: bool) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text);
    loop {
        rest = strip(rest, None, !from_right, from_right);
        if rest.is_empty() {
            break;
        }
        let next = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = next.filter(|_| most.is_none_or(|most| parts.len() < most)) else {
            parts.push(rest);
            break;
        };
        let space = rest[at..].chars().next().map_or(1, char::len_utf8);
        let (part, left) = if from_right { (&rest[at + space..], &rest[..at]) } else { (&rest[..at], &rest[at..]) };
        parts.push(part);
        rest = left;
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// The lines of a text, as `splitlines()` has them.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let Some(at) = rest.find(ends) else {
            lines.push(rest);
            break;
        };
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(&rest[..if keep_ends { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    lines
}

/// The first letter in upper case, the others in lower case.
pub(super) fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    let Some(first) = characters.next() else {
        return String::new();
    };
    title_case(first) + &characters.as_str().to_lowercase()
}

/// The title case of a letter: only the first of the letters that it becomes is in upper case (`ß`: `Ss`).
fn title_case(c: char) -> String {
    let mut upper = c.to_uppercase();
    let first = upper.next().map(String::from).unwrap_or_default();
    first + &upper.flat_map(char::to_lowercase).collect::<String>()
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// `str.title()`: upper case after everything that has no case.
pub(super) fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            result.extend(c.to_lowercase())
        } else {
            result.push_str(&title_case(c))
        }
        inside = is_cased(c);
    }
    result
}

/// Jinja's filter `title`: upper case after white space, hyphens and brackets.
pub(super) fn title_words(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        let between = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
        if start && !between {
            result.extend(c.to_uppercase())
        } else {
            result.extend(c.to_lowercase())
        }
        start = between;
    }
    result
}

pub(super) fn swap_case(text: &str) -> String {
    text.chars().map(|c| if c.is_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() }).collect()
}

/// Padded to a width in characters, by the method of this name.
pub(super) fn pad(text: &str, width: usize, fill: char, method: &str) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // As CPython rounds.
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    fill(left) + text + &fill(missing - left)
}

/// The methods `isdigit`, `isalpha`, …
pub(super) fn is(method: &str, text: &str) -> Outcome<bool> {
    let all = |of: &dyn Fn(char) -> Outcome<bool>| -> Outcome<bool> {
        for c in text.chars() {
            if !of(c)? {
                return Ok(false);
            }
        }
        Ok(!text.is_empty())
    };
    match method {
        "isascii" => Ok(text.is_ascii()),
        "isspace" => all(&|c| Ok(is_space(c))),
        "isprintable" => Ok(text.chars().all(printable)),
        "islower" => Ok(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)),
        "isupper" => Ok(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)),
        "isdigit" | "isdecimal" | "isnumeric" => all(&is_digit),
        "isalpha" => all(&is_letter),
        _ => all(&|c| Ok(is_letter(c)? || is_digit(c)?)),
    }
}

fn is_digit(c: char) -> Outcome<bool> {
    if !c.is_ascii() && c.is_numeric() {
        return fail(format!("digits beyond ASCII are not supported: {c}"));
    }
    Ok(c.is_ascii_digit())
}

/// Python's letters are fewer than Unicode's alphabetic characters; both agree in these scripts.
fn is_letter(c: char) -> Outcome<bool> {
    let known = matches!(c, '\0'..='\u{24f}' | '\u{370}'..='\u{482}' | '\u{48a}'..='\u{52f}' | '\u{3041}'..='\u{30fa}'
        | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}');
    if c.is_alphabetic() && !known {
        return fail(format!("it is not known whether Python takes {c} for a letter"));
    }
    Ok(c.is_alphabetic())
}
