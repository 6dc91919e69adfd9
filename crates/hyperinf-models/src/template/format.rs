//! Python's two formats of text: `%` and `str.format`.

use super::access::{attribute, item};
use super::budget::Budget;
use super::calls::Arguments;
use super::error::{Outcome, fail};
use super::repr::{float, to_repr, to_text};
use super::value::{Key, Value};

/// The widest field and the most digits.
const WIDEST: usize = 1 << 20;
const MOST_DIGITS: usize = 300;

/// How a value is written.
#[derive(Clone, Debug, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Python's `format % arguments`.
pub(super) fn percent(format: &str, arguments: &Value, budget: &Budget) -> Outcome<String> {
    let mut out = String::new();
    let single = [arguments.clone()];
    let positional: &[Value] = if let Value::Tuple(list) = arguments { &list.entries } else { &single };
    let (mut next, mut named) = (0, false);
    let mut characters = format.chars().peekable();
    budget.make(format.len())?;
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut value = None;
        if characters.next_if_eq(&'(').is_some() {
            let key: String = characters.by_ref().take_while(|&c| c != ')').collect();
            let Value::Dict(dict) = arguments else {
                return fail("TypeError: format requires a mapping");
            };
            named = true;
            match dict.get(&Key::Text(key.as_str().into())) {
                Some(found) => value = Some(found.clone()),
                None => return fail(format!("KeyError: '{key}'")),
            }
        }
        let mut spec = Spec::default();
        while let Some(flag) = characters.next_if(|c| "#0- +".contains(*c)) {
            match flag {
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                _ => spec.sign = spec.sign.or(Some(' ')),
            }
        }
        let mut number = || -> Outcome<Option<usize>> {
            if characters.peek() == Some(&'*') {
                return fail("`*` in a format is not supported");
            }
            let mut digits = String::new();
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            if digits.is_empty() { Ok(None) } else { size(&digits).map(Some) }
        };
        spec.width = number()?.unwrap_or(0);
        if characters.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            spec.precision = Some(if digits.is_empty() { 0 } else { size(&digits)? });
        }
        while characters.next_if(|c| "hlL".contains(*c)).is_some() {}
        let Some(kind) = characters.next() else {
            return fail("ValueError: incomplete format");
        };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match value {
            Some(value) => value,
            None => match positional.get(next) {
                Some(value) => {
                    next += 1;
                    value.clone()
                }
                None => return fail("TypeError: not enough arguments for format string"),
            },
        };
        spec.align = spec.align.or(if spec.zero { None } else { Some('>') });
        spec.kind = Some(kind);
        out.push_str(&percent_one(&value, spec, budget)?);
    }
    if next < positional.len() && !named && !(matches!(arguments, Value::Dict(_)) && next == 0) {
        return fail("TypeError: not all arguments converted during string formatting");
    }
    Ok(out)
}

fn percent_one(value: &Value, mut spec: Spec, budget: &Budget) -> Outcome<String> {
    match spec.kind {
        Some('s' | 'r') => {
            let text = if spec.kind == Some('s') { to_text(value, budget)? } else { to_repr(value, budget)? };
            spec.zero = false;
            spec.align = spec.align.or(Some('>'));
            pad_text(text, &spec, budget)
        }
        Some('d' | 'i' | 'u') => {
            spec.kind = Some('d');
            match value {
                Value::Float(value) if value.is_finite() && value.abs() < 1e38 => {
                    format_number(&Value::Int(*value as i128), &spec, budget)
                }
                value if value.as_int().is_some() && spec.precision.is_none() => format_number(value, &spec, budget),
                value => fail(format!("TypeError: %d format: a real number is required, not {}", value.type_name())),
            }
        }
        Some('x' | 'X' | 'o') if value.as_int().is_some() && spec.precision.is_none() => {
            format_number(value, &spec, budget)
        }
        Some('f' | 'F' | 'e' | 'E' | 'g' | 'G') if value.as_float().is_some() && !spec.alternate => {
            format_number(value, &spec, budget)
        }
        _ => fail("this conversion in a format is not supported"),
    }
}

fn size(digits: &str) -> Outcome<usize> {
    match digits.parse() {
        Ok(size) if size <= WIDEST => Ok(size),
        _ => fail(format!("a width of {digits} in a format is more than {WIDEST}")),
    }
}

/// Python's `format.format(…)`.
pub(super) fn format(format: &str, arguments: &Arguments, budget: &Budget) -> Outcome<String> {
    let mut out = String::new();
    let mut rest = format;
    let (mut automatic, mut numbered) = (0, false);
    budget.make(format.len())?;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let double = rest[at..].starts_with("{{") || rest[at..].starts_with("}}");
        if double {
            out.push_str(&rest[at..=at]);
            rest = &rest[at + 2..];
            continue;
        }
        if rest[at..].starts_with('}') {
            return fail("ValueError: Single '}' encountered in format string");
        }
        let Some(length) = rest[at..].find('}') else {
            return fail("ValueError: expected '}' before end of string");
        };
        let field = &rest[at + 1..at + length];
        rest = &rest[at + length + 1..];
        if field.contains('{') {
            return fail("a field inside of a field of a format is not supported");
        }
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = name.split_once('!').unwrap_or((name, ""));
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, path) = name.split_at(end);
        let value = if first.is_empty() {
            if numbered {
                return fail("ValueError: cannot switch from manual field specification to automatic field numbering");
            }
            automatic += 1;
            arguments.positional.get(automatic - 1)
        } else if first.bytes().all(|byte| byte.is_ascii_digit()) {
            if automatic > 0 {
                return fail("ValueError: cannot switch from automatic field numbering to manual field specification");
            }
            numbered = true;
            first.parse::<usize>().ok().and_then(|at| arguments.positional.get(at))
        } else {
            arguments.named.iter().find(|(known, _)| **known == *first).map(|(_, value)| value)
        };
        let Some(value) = value else {
            return fail(format!("KeyError or IndexError: the format has no argument '{first}'"));
        };
        let value = follow(value.clone(), path)?;
        let value = match conversion {
            "" => value,
            "s" => Value::text(&to_text(&value, budget)?),
            "r" => Value::text(&to_repr(&value, budget)?),
            _ => return fail(format!("the conversion `!{conversion}` in a format is not supported")),
        };
        out.push_str(&format_one(&value, spec, budget)?);
    }
    out.push_str(rest);
    budget.make(out.len())?;
    Ok(out)
}

/// `.name` and `[key]` after the name of a field.
fn follow(mut value: Value, path: &str) -> Outcome<Value> {
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            value = attribute(&value, &after[..end])?;
            rest = &after[end..];
        } else {
            let Some((key, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
                return fail("ValueError: Missing ']' in format string");
            };
            let key = key.parse::<u32>().map_or_else(|_| Value::text(key), |index| Value::Int(index.into()));
            value = item(&value, &key)?;
            rest = after;
        }
        if let Value::Undefined(reason) = &value {
            return fail(format!("UndefinedError: {reason}"));
        }
    }
    Ok(value)
}

fn format_one(value: &Value, spec: &str, budget: &Budget) -> Outcome<String> {
    if spec.is_empty() {
        return to_text(value, budget);
    }
    let spec = parse_spec(spec)?;
    match value {
        Value::Text(text)
            if matches!(spec.kind, None | Some('s')) && spec.sign.is_none() && spec.grouping.is_none() =>
        {
            let align = spec.align.or(Some('<'));
            pad_text(text.to_string(), &Spec { align, ..spec }, budget)
        }
        value if value.as_float().is_some() => format_number(value, &spec, budget),
        value => fail(format!("TypeError: unsupported format string passed to {}.__format__", value.type_name())),
    }
}

fn parse_spec(text: &str) -> Outcome<Spec> {
    let mut spec = Spec::default();
    let characters: Vec<char> = text.chars().collect();
    let is_align = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
    let mut at = 0;
    if is_align(characters.get(1)) {
        (spec.fill, spec.align) = (Some(characters[0]), Some(characters[1]));
        at = 2;
    } else if is_align(characters.first()) {
        spec.align = Some(characters[0]);
        at = 1;
    }
    let mut take = |known: &str| {
        let found = characters.get(at).copied().filter(|c| known.contains(*c));
        at += usize::from(found.is_some());
        found
    };
    spec.sign = take("+- ");
    spec.alternate = take("#").is_some();
    spec.zero = take("0").is_some();
    let mut digits = String::new();
    while let Some(digit) = take("0123456789") {
        digits.push(digit);
    }
    spec.width = if digits.is_empty() { 0 } else { size(&digits)? };
    spec.grouping = take(",_");
    if take(".").is_some() {
        let mut digits = String::new();
        while let Some(digit) = take("0123456789") {
            digits.push(digit);
        }
        spec.precision = Some(size(&digits)?);
    }
    spec.kind = take("bdoxXeEfFgGs%");
    if at < characters.len() {
        return fail(format!("the format specification `{text}` is not supported"));
    }
    Ok(spec)
}

fn pad_text(text: String, spec: &Spec, budget: &Budget) -> Outcome<String> {
    let text = match spec.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    };
    pad("", &text, spec, budget)
}

/// Pads to the width; a sign stays before zeros.
fn pad(sign: &str, body: &str, spec: &Spec, budget: &Budget) -> Outcome<String> {
    let missing = spec.width.saturating_sub(sign.len() + body.chars().count());
    budget.make_times(4, missing)?;
    budget.make(sign.len() + body.len())?;
    let align = spec.align.unwrap_or(if spec.zero { '=' } else { '>' });
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
    let fill = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(match align {
        '<' => format!("{sign}{body}{}", fill(missing)),
        '^' => format!("{}{sign}{body}{}", fill(missing / 2), fill(missing - missing / 2)),
        '=' => format!("{sign}{}{body}", fill(missing)),
        _ => format!("{}{sign}{body}", fill(missing)),
    })
}

fn format_number(value: &Value, spec: &Spec, budget: &Budget) -> Outcome<String> {
    if spec.precision.is_some_and(|digits| digits > MOST_DIGITS) {
        return fail(format!("more than {MOST_DIGITS} digits in a format are not supported"));
    }
    let (negative, mut body) = match (spec.kind, value.as_int()) {
        (None | Some('d'), Some(value)) if spec.precision.is_none() => (value < 0, value.unsigned_abs().to_string()),
        (Some(kind @ ('x' | 'X' | 'o' | 'b')), Some(value)) => {
            let magnitude = value.unsigned_abs();
            let (prefix, digits) = match kind {
                'x' => ("0x", format!("{magnitude:x}")),
                'X' => ("0X", format!("{magnitude:X}")),
                'o' => ("0o", format!("{magnitude:o}")),
                _ => ("0b", format!("{magnitude:b}")),
            };
            if spec.alternate && (spec.zero || spec.align == Some('=')) || spec.grouping.is_some() {
                return fail("a prefix with zeros or groups in a format is not supported");
            }
            (value < 0, if spec.alternate { prefix.to_owned() + &digits } else { digits })
        }
        (kind, _) => {
            let value = value.as_float().unwrap_or(f64::NAN);
            if !value.is_finite() || spec.alternate {
                return fail("a format of this number is not supported");
            }
            let (digits, magnitude) = (spec.precision.unwrap_or(6), value.abs());
            let body = match kind {
                Some('f' | 'F') => format!("{magnitude:.digits$}"),
                Some('%') => format!("{:.digits$}%", magnitude * 100.0),
                Some(kind @ ('e' | 'E')) => upper(exponential(magnitude, digits), kind == 'E'),
                Some(kind @ ('g' | 'G')) => upper(general(magnitude, digits.max(1)), kind == 'G'),
                None if spec.precision.is_none() => float(magnitude),
                _ => return fail("this format of a number is not supported"),
            };
            (value.is_sign_negative(), body)
        }
    };
    if let Some(separator) = spec.grouping {
        if spec.zero {
            return fail("groups with zeros in a format are not supported");
        }
        let end = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
        let (whole, rest) = body.split_at(end);
        let mut grouped = String::new();
        for (at, digit) in whole.chars().enumerate() {
            if at > 0 && (whole.len() - at).is_multiple_of(3) {
                grouped.push(separator);
            }
            grouped.push(digit);
        }
        body = grouped + rest;
    }
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    pad(sign, &body, spec, budget)
}

fn upper(text: String, upper: bool) -> String {
    if upper { text.to_uppercase() } else { text }
}

/// `1.25e-07`, with this many digits after the point.
fn exponential(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// The format `g`: this many significant digits, without zeros at the end.
fn general(value: f64, digits: usize) -> String {
    let text = exponential(value, digits - 1);
    let exponent: i32 = text.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
    };
    if exponent < -4 || exponent >= digits as i32 {
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", trim(digits));
    }
    let after = (digits as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{value:.after$}"))
}
