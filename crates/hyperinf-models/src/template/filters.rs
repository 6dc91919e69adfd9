//! The filters of Jinja and transformers.

use super::access::own_attribute;
use super::calls::Arguments;
use super::error::{Outcome, fail};
use super::filters_list as list;
use super::format::percent;
use super::machine::Machine;
use super::methods::{is_attribute, replace, soft_text};
use super::operators::{escape, undefined_used};
use super::repr::{JsonStyle, to_json, to_text};
use super::text;
use super::value::Value;

/// The filters that are known; Jinja's others are refused by name.
pub(super) const FILTERS: [&str; 46] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
];

/// Filters that make plain text or no text of safe HTML.
const OF_MARKUP: [&str; 12] =
    ["safe", "string", "e", "escape", "forceescape", "length", "count", "default", "d", "tojson", "list", "wordcount"];

/// Applies a filter.
pub(super) fn apply(machine: &Machine, name: &str, input: &Value, arguments: Arguments) -> Outcome<Value> {
    let budget = &machine.budget;
    if matches!(input, Value::Markup(_)) && !OF_MARKUP.contains(&name) {
        return fail(format!("the filter `{name}` of safe HTML is not supported"));
    }
    let optional_text = |value: &Option<Value>, default: &str| match value {
        None => Ok(default.to_owned()),
        Some(value) => to_text(value, budget),
    };
    match name {
        "string" => match input {
            Value::Markup(_) => arguments.none(name).map(|()| input.clone()),
            _ => {
                arguments.none(name)?;
                Ok(Value::text(&soft_text(machine, input)?))
            }
        },
        "safe" => {
            arguments.none(name)?;
            Ok(Value::Markup(soft_text(machine, input)?.into()))
        }
        "e" | "escape" if matches!(input, Value::Markup(_)) => arguments.none(name).map(|()| input.clone()),
        "e" | "escape" | "forceescape" => {
            arguments.none(name)?;
            Ok(Value::Markup(escape(&soft_text(machine, input)?, budget)?.into()))
        }
        "lower" | "upper" | "capitalize" | "title" | "wordcount" => {
            arguments.none(name)?;
            let text = soft_text(machine, input)?;
            budget.make_times(text.len(), 2)?;
            Ok(match name {
                "lower" => Value::text(&text.to_lowercase()),
                "upper" => Value::text(&text.to_uppercase()),
                "capitalize" => Value::text(&text::capitalize(&text)),
                "title" => Value::text(&text::title_words(&text)),
                _ => Value::Int(words(&text)),
            })
        }
        "trim" => {
            let [characters] = arguments.bind(name, 0, ["chars"])?;
            let characters = characters.filter(|value| !matches!(value, Value::None));
            let characters = characters.map(|value| soft_text(machine, &value)).transpose()?;
            Ok(Value::text(text::strip(&soft_text(machine, input)?, characters.as_deref(), true, true)))
        }
        "replace" => {
            let [old, new, count] = arguments.bind(name, 2, ["old", "new", "count"])?;
            let (old, new) = (optional_text(&old, "")?, optional_text(&new, "")?);
            let count = count.and_then(|count| count.as_int()).and_then(|count| usize::try_from(count).ok());
            replace(machine, &soft_text(machine, input)?, &old, &new, count)
        }
        "center" => {
            let [width] = arguments.bind(name, 0, ["width"])?;
            let width = number(width.as_ref(), 80)?.max(0) as usize;
            budget.make_times(4, width)?;
            Ok(Value::text(&text::pad(&soft_text(machine, input)?, width, ' ', name)))
        }
        "indent" => indent(machine, input, arguments),
        "truncate" => {
            let [length, kill_words, end, leeway] =
                arguments.bind(name, 0, ["length", "killwords", "end", "leeway"])?;
            let (length, leeway) = (number(length.as_ref(), 255)?.max(0) as usize, number(leeway.as_ref(), 5)?.max(0));
            let (count, end) = (input.len()?, optional_text(&end, "...")?);
            let ends = end.chars().count();
            if length < ends {
                return fail("AssertionError: the length of `truncate` is less than that of its end");
            }
            if count <= length.saturating_add(leeway as usize) {
                return Ok(input.clone());
            }
            let Some(text) = input.as_text() else {
                return fail(format!("`truncate` of a {} is not supported", input.type_name()));
            };
            let mut kept: String = text.chars().take(length - ends).collect();
            if !kill_words.is_some_and(|kill| kill.truth()) {
                kept.truncate(kept.rfind(' ').unwrap_or(kept.len()));
            }
            Ok(Value::text(&(kept + &end)))
        }
        "format" => {
            let format = soft_text(machine, input)?;
            let arguments = match (arguments.positional.is_empty(), arguments.named.is_empty()) {
                (false, false) => return fail("FilterArgumentError: can't handle positional and keyword arguments"),
                (_, true) => Value::tuple(arguments.positional, budget)?,
                (true, false) => {
                    Value::dict(arguments.named.into_iter().map(|(name, value)| (Value::text(&name), value)), budget)?
                }
            };
            Ok(Value::text(&percent(&format, &arguments, budget)?))
        }
        "tojson" => tojson(machine, input, arguments),
        "default" | "d" => {
            let [default, boolean] = arguments.bind(name, 0, ["default_value", "boolean"])?;
            let absent = matches!(input, Value::Undefined(_)) || boolean.is_some_and(|b| b.truth()) && !input.truth();
            Ok(if absent { default.unwrap_or_else(|| Value::text("")) } else { input.clone() })
        }
        "int" | "float" => to_number(name, input, arguments),
        "abs" => {
            arguments.none(name)?;
            match (input, input.as_int()) {
                (_, Some(value)) => Ok(Value::Int(value.saturating_abs())),
                (Value::Float(value), _) => Ok(Value::Float(value.abs())),
                _ => fail(format!("TypeError: bad operand type for abs(): '{}'", input.type_name())),
            }
        }
        "round" => round(input, arguments),
        "attr" => {
            let [attribute] = arguments.bind(name, 1, ["name"])?;
            let attribute = optional_text(&attribute, "")?;
            if let Value::Undefined(_) = input {
                return undefined_used(input);
            }
            if is_attribute(input, &attribute) || matches!(input, Value::Namespace(_) | Value::Loop(_)) {
                let missing = || Value::Undefined(format!("there is no attribute '{attribute}'").into());
                return Ok(own_attribute(input, &attribute)?.unwrap_or_else(missing));
            }
            Ok(Value::Undefined(format!("'{} object' has no attribute '{attribute}'", input.type_name()).into()))
        }
        _ => list::apply(machine, name, input, arguments),
    }
}

/// A whole number of an argument.
pub(super) fn number(value: Option<&Value>, default: i128) -> Outcome<i128> {
    match value {
        None => Ok(default),
        Some(value) => match value.as_int() {
            Some(value) => Ok(value),
            None => fail(format!("TypeError: expected an int, found {}", value.type_name())),
        },
    }
}

fn words(text: &str) -> i128 {
    let (mut count, mut inside) = (0, false);
    for c in text.chars() {
        let word = c.is_alphanumeric() || c == '_';
        count += i128::from(word && !inside);
        inside = word;
    }
    count
}

fn indent(machine: &Machine, input: &Value, arguments: Arguments) -> Outcome<Value> {
    let budget = &machine.budget;
    let [width, first, blank] = arguments.bind("indent", 0, ["width", "first", "blank"])?;
    let indentation = match width {
        Some(width) if width.as_text().is_some() => soft_text(machine, &width)?,
        width => {
            let width = number(width.as_ref(), 4)?.max(0) as usize;
            budget.make(width)?;
            " ".repeat(width)
        }
    };
    let is = |value: Option<Value>| value.is_some_and(|value| value.truth());
    let (first, blank) = (is(first), is(blank));
    let text = match input.as_text() {
        Some(text) => format!("{text}\n"),
        None => return fail(format!("TypeError: a {} cannot be indented", input.type_name())),
    };
    let lines = text::lines(&text, false);
    budget.make_times(indentation.len(), lines.len() + 1)?;
    budget.make(text.len())?;
    let mut result = String::new();
    for (at, line) in lines.iter().enumerate() {
        result.push_str(if at > 0 { "\n" } else { "" });
        if at == 0 && first || at > 0 && (blank || !line.is_empty()) {
            result.push_str(&indentation);
        }
        result.push_str(line);
    }
    Ok(Value::text(&result))
}

fn tojson(machine: &Machine, input: &Value, arguments: Arguments) -> Outcome<Value> {
    let budget = &machine.budget;
    let [ascii, indent, separators, sort_keys] =
        arguments.bind("tojson", 0, ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let is = |value: Option<Value>| value.is_some_and(|value| value.truth());
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(indent)) => Some(indent.to_string()),
        Some(width) => {
            let width = number(Some(&width), 0)?.max(0) as usize;
            budget.make(width)?;
            Some(" ".repeat(width))
        }
    };
    let (item_separator, key_separator) = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => match &*pair.iterate(budget)? {
            [Value::Text(item), Value::Text(key)] => (item.to_string(), key.to_string()),
            _ => return fail("TypeError: the separators of `tojson` are two texts"),
        },
    };
    let style = JsonStyle { ascii: is(ascii), indent, item_separator, key_separator, sort_keys: is(sort_keys) };
    Ok(Value::text(&to_json(input, &style, budget)?))
}

/// A whole number as Python's `int` reads it.
fn parse_int(text: &str) -> Option<i128> {
    let text = text::strip(text, None, true, true);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let grouped = digits.split('_').all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    if grouped { text.replace('_', "").parse().ok() } else { None }
}

/// A number as Python's `float` reads it.
fn parse_float(text: &str) -> Option<f64> {
    let text = text::strip(text, None, true, true);
    let grouped = text.split('_').all(|group| !group.is_empty());
    if grouped && text.is_ascii() { text.replace('_', "").parse().ok() } else { None }
}

fn to_number(name: &str, input: &Value, arguments: Arguments) -> Outcome<Value> {
    if let Value::Undefined(_) = input {
        return undefined_used(input);
    }
    let float = match input.as_text() {
        Some(text) => parse_float(text),
        None => input.as_float(),
    };
    if name == "float" {
        let [default] = arguments.bind(name, 0, ["default"])?;
        return Ok(float.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float));
    }
    let [default, base] = arguments.bind(name, 0, ["default", "base"])?;
    if base.as_ref().is_some_and(|base| base.as_int() != Some(10)) {
        return fail("`int` in another base than 10 is not supported");
    }
    if let Some(value) = input.as_int().or_else(|| parse_int(input.as_text()?)) {
        return Ok(Value::Int(value));
    }
    match float {
        Some(value) if value.is_finite() && value.abs() < 1e38 => Ok(Value::Int(value as i128)),
        Some(value) if input.as_text().is_none() && value.is_infinite() => {
            fail("OverflowError: cannot convert float infinity to integer")
        }
        Some(value) if value.is_finite() => fail("whole numbers beyond 128 bits are not supported"),
        _ => Ok(default.unwrap_or(Value::Int(0))),
    }
}

fn round(input: &Value, arguments: Arguments) -> Outcome<Value> {
    let [precision, method] = arguments.bind("round", 0, ["precision", "method"])?;
    let precision = number(precision.as_ref(), 0)?;
    if !(0..=300).contains(&precision) {
        return fail(format!("`round` to {precision} digits is not supported"));
    }
    if let Value::Undefined(_) = input {
        return undefined_used(input);
    }
    let Some(value) = input.as_float() else {
        return fail(format!("TypeError: type {} doesn't define __round__ method", input.type_name()));
    };
    match method.as_ref().map(|method| method.as_text().map(|text| &**text)) {
        None | Some(Some("common")) => match input.as_int() {
            Some(value) => Ok(Value::Int(value)),
            None => {
                // The exact value is rounded, half to even, as CPython does.
                let text = format!("{value:.*}", precision as usize);
                Ok(Value::Float(text.parse().unwrap_or(value)))
            }
        },
        Some(Some(method @ ("ceil" | "floor"))) => {
            let scale = 10_f64.powi(precision as i32);
            let scaled = value * scale;
            Ok(Value::Float(if method == "ceil" { scaled.ceil() } else { scaled.floor() } / scale))
        }
        _ => fail("FilterArgumentError: method must be common, ceil or floor"),
    }
}
