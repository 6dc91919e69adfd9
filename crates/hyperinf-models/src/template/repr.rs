//! Values as text: Python's `str`, `repr` and `json.dumps`.

use std::fmt::Write;

use super::budget::Budget;
use super::error::{Outcome, fail};
use super::value::{Value, View};

/// Python's `str(value)`.
pub(super) fn to_text(value: &Value, budget: &Budget) -> Outcome<String> {
    if let Some(text) = value.as_text() {
        budget.make(text.len())?;
        return Ok(text.to_string());
    }
    let mut text = String::new();
    if !matches!(value, Value::Undefined(_)) {
        write_repr(value, &mut text, budget)?;
    }
    Ok(text)
}

/// Python's `repr(value)`.
pub(super) fn to_repr(value: &Value, budget: &Budget) -> Outcome<String> {
    let mut text = String::new();
    write_repr(value, &mut text, budget)?;
    Ok(text)
}

fn write_repr(value: &Value, out: &mut String, budget: &Budget) -> Outcome<()> {
    budget.make(8)?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        // Writing to a String cannot fail.
        Value::Int(value) => {
            let _ = write!(out, "{value}");
        }
        Value::Float(value) => out.push_str(&float(*value)),
        Value::Text(text) => {
            budget.make(text.len())?;
            quote(text, out);
        }
        Value::Markup(text) => {
            budget.make(text.len())?;
            out.push_str("Markup(");
            quote(text, out);
            out.push(')');
        }
        Value::List(list) => {
            out.push('[');
            write_list(&list.entries, out, budget)?;
            out.push(']');
        }
        Value::Tuple(list) => {
            out.push('(');
            write_list(&list.entries, out, budget)?;
            out.push_str(if list.entries.len() == 1 { ",)" } else { ")" });
        }
        Value::Dict(dict) => {
            out.push('{');
            for (at, (key, value)) in dict.entries().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write_repr(key, out, budget)?;
                out.push_str(": ");
                write_repr(value, out, budget)?;
            }
            out.push('}');
        }
        Value::View(View::Items, _) | Value::View(View::Keys, _) | Value::View(View::Values, _) => {
            out.push_str(value.type_name());
            out.push_str("([");
            write_list(&value.iterate(budget)?, out, budget)?;
            out.push_str("])");
        }
        Value::Range(range) => {
            let step = if range.step == 1 { String::new() } else { format!(", {}", range.step) };
            let _ = write!(out, "range({}, {}{step})", range.start, range.stop);
        }
        other => return fail(format!("printing a {} is not supported", other.type_name())),
    }
    Ok(())
}

fn write_list(entries: &[Value], out: &mut String, budget: &Budget) -> Outcome<()> {
    for (at, entry) in entries.iter().enumerate() {
        out.push_str(if at > 0 { ", " } else { "" });
        write_repr(entry, out, budget)?;
    }
    Ok(())
}

/// A text as Python's `repr` quotes it.
fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            c if printable(c) => out.push(c),
            c if (c as u32) < 0x100 => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if (c as u32) < 0x1_0000 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
        }
    }
    out.push(mark);
}

/// Whether Python prints the character as it is: Rust's `Debug` of a text follows the same Unicode categories.
pub(super) fn printable(c: char) -> bool {
    matches!(c, ' '..='~') || !c.is_ascii() && format!("{:?}", format!("a{c}")).chars().nth(2) == Some(c)
}

/// A number with a fraction as Python writes it.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    // The shortest digits that name this number: `-1.25e-7`.
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let text = value.to_string();
        return if text.contains('.') { text } else { text + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The options of `tojson`.
pub(super) struct JsonStyle {
    pub(super) ascii: bool,
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    pub(super) sort_keys: bool,
}

/// Python's `json.dumps(value)`.
pub(super) fn to_json(value: &Value, style: &JsonStyle, budget: &Budget) -> Outcome<String> {
    let mut out = String::new();
    write_json(value, style, 0, &mut out, budget)?;
    Ok(out)
}

fn write_json(value: &Value, style: &JsonStyle, level: usize, out: &mut String, budget: &Budget) -> Outcome<()> {
    budget.make(8)?;
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => {
            let _ = write!(out, "{value}");
        }
        Value::Float(value) => out.push_str(&json_float(*value)),
        Value::Text(text) | Value::Markup(text) => {
            budget.make(text.len())?;
            json_text(text, style.ascii, out);
        }
        Value::List(list) | Value::Tuple(list) => {
            let mut first = true;
            for entry in &list.entries {
                open(&mut first, '[', style, level + 1, out, budget)?;
                write_json(entry, style, level + 1, out, budget)?;
            }
            close(first, "[]", style, level, out, budget)?;
        }
        Value::Dict(dict) => {
            let mut entries: Vec<&(Value, Value)> = dict.entries().collect();
            if style.sort_keys {
                sort_keys(&mut entries)?;
            }
            let mut first = true;
            for (key, value) in entries {
                open(&mut first, '{', style, level + 1, out, budget)?;
                let key = match key {
                    Value::Text(text) | Value::Markup(text) => text.to_string(),
                    Value::None => "null".into(),
                    Value::Bool(value) => value.to_string(),
                    Value::Int(value) => value.to_string(),
                    Value::Float(value) => json_float(*value),
                    other => {
                        let kind = other.type_name();
                        return fail(format!("TypeError: keys must be str, int, float, bool or None, not {kind}"));
                    }
                };
                budget.make(key.len())?;
                json_text(&key, style.ascii, out);
                out.push_str(&style.key_separator);
                write_json(value, style, level + 1, out, budget)?;
            }
            close(first, "{}", style, level, out, budget)?;
        }
        other => {
            return fail(format!("TypeError: Object of type {} is not JSON serializable", other.type_name()));
        }
    }
    Ok(())
}

fn sort_keys(entries: &mut [&(Value, Value)]) -> Outcome<()> {
    let all = |is: fn(&Value) -> bool| entries.iter().all(|(key, _)| is(key));
    if all(|key| key.as_text().is_some()) {
        entries.sort_by(|a, b| a.0.as_text().cmp(&b.0.as_text()));
    } else if all(|key| key.as_int().is_some()) {
        entries.sort_by_key(|entry| entry.0.as_int());
    } else {
        return fail("TypeError: keys of different types cannot be sorted");
    }
    Ok(())
}

fn open(
    first: &mut bool,
    bracket: char,
    style: &JsonStyle,
    level: usize,
    out: &mut String,
    budget: &Budget,
) -> Outcome<()> {
    if std::mem::take(first) {
        out.push(bracket);
    } else {
        out.push_str(&style.item_separator);
    }
    new_line(style, level, out, budget)
}

fn close(
    empty: bool,
    brackets: &str,
    style: &JsonStyle,
    level: usize,
    out: &mut String,
    budget: &Budget,
) -> Outcome<()> {
    if empty {
        out.push_str(brackets);
        return Ok(());
    }
    new_line(style, level, out, budget)?;
    out.push_str(&brackets[1..]);
    Ok(())
}

fn new_line(style: &JsonStyle, level: usize, out: &mut String, budget: &Budget) -> Outcome<()> {
    if let Some(indent) = &style.indent {
        budget.make_times(indent.len() + 1, level + 1)?;
        out.push('\n');
        out.push_str(&indent.repeat(level));
    }
    Ok(())
}

fn json_float(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        value => float(value),
    }
}

fn json_text(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if ascii && !matches!(c, ' '..='~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
