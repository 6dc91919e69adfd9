//! The methods of texts, dictionaries and lists.

use super::calls::Arguments;
use super::error::{Outcome, fail};
use super::format::format;
use super::machine::Machine;
use super::operators::{equal, undefined_used};
use super::repr::to_text;
use super::text;
use super::value::{Key, Value, View};

const TEXT: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
/// Without those that change a dictionary: the sandbox hides them.
const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const SEQUENCE: [&str; 2] = ["count", "index"];
const INT: [&str; 11] = [
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "imag",
    "is_integer",
    "numerator",
    "real",
    "to_bytes",
];
const FLOAT: [&str; 7] = ["as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "is_integer", "real"];

/// Whether Python's object has this attribute.
pub(super) fn is_attribute(value: &Value, name: &str) -> bool {
    match value {
        Value::Text(_) | Value::Markup(_) => TEXT.contains(&name),
        Value::Dict(_) => DICT.contains(&name),
        Value::List(_) => name == "copy" || SEQUENCE.contains(&name),
        Value::Tuple(_) => SEQUENCE.contains(&name),
        Value::Int(_) | Value::Bool(_) => INT.contains(&name),
        Value::Float(_) => FLOAT.contains(&name),
        Value::Range(_) => SEQUENCE.contains(&name) || ["start", "stop", "step"].contains(&name),
        Value::View(..) => ["isdisjoint", "mapping"].contains(&name),
        Value::Macro(_) => ["arguments", "caller", "catch_kwargs", "catch_varargs", "name"].contains(&name),
        Value::Cycler(_) => ["current", "items", "next", "pos", "reset"].contains(&name),
        Value::Joiner(_) => ["sep", "used"].contains(&name),
        _ => false,
    }
}

/// Calls a method.
pub(super) fn call(machine: &Machine, value: &Value, name: &str, arguments: Arguments) -> Outcome<Value> {
    let budget = &machine.budget;
    match value {
        Value::Text(own) => text_method(machine, own, name, arguments),
        Value::Dict(dict) => match name {
            "get" => {
                if !arguments.named.is_empty() {
                    return fail("TypeError: dict.get() takes no keyword arguments");
                }
                let [key, default] = arguments.bind("get", 1, ["key", "default"])?;
                let found = dict.get(&Key::of(&key.unwrap_or(Value::None))?).cloned();
                Ok(found.or(default).unwrap_or(Value::None))
            }
            "items" | "keys" | "values" => {
                arguments.none(name)?;
                let view = match name {
                    "items" => View::Items,
                    "keys" => View::Keys,
                    _ => View::Values,
                };
                Ok(Value::View(view, dict.clone()))
            }
            "copy" => arguments.none(name).map(|()| value.clone()),
            _ => fail(format!("the method `{name}` of a dictionary is not supported")),
        },
        Value::List(list) | Value::Tuple(list) => match (name, &*arguments.positional) {
            ("copy", []) => Ok(value.clone()),
            ("count", [wanted]) => {
                let mut count = 0;
                for entry in &list.entries {
                    count += i128::from(equal(entry, wanted, budget)?);
                }
                Ok(Value::Int(count))
            }
            ("index", [wanted]) => {
                for (at, entry) in list.entries.iter().enumerate() {
                    if equal(entry, wanted, budget)? {
                        return Ok(Value::Int(at as i128));
                    }
                }
                fail("ValueError: the value is not in the list")
            }
            _ => fail(format!("`{name}` of a list like this is not supported")),
        },
        Value::Cycler(cycler) => {
            let count = cycler.0.entries.len();
            let at = *cycler.1.borrow();
            match name {
                "next" => *cycler.1.borrow_mut() = (at + 1) % count,
                "reset" => *cycler.1.borrow_mut() = 0,
                _ => return fail(format!("`{name}` of a cycler is not supported")),
            }
            arguments.none(name)?;
            Ok(if name == "next" { cycler.0.entries[at].clone() } else { Value::None })
        }
        other => fail(format!("`{name}` of a {} is not supported", other.type_name())),
    }
}

fn text_of(value: &Value) -> Outcome<&str> {
    match value {
        Value::Undefined(_) => undefined_used(value),
        other => match other.as_text() {
            Some(text) => Ok(text),
            None => fail(format!("TypeError: expected a str, found {}", other.type_name())),
        },
    }
}

fn int_of(value: &Value) -> Outcome<i128> {
    match value.as_int() {
        Some(number) => Ok(number),
        None if matches!(value, Value::Undefined(_)) => undefined_used(value),
        None => fail(format!("TypeError: '{}' object cannot be interpreted as an integer", value.type_name())),
    }
}

/// A number of characters or pieces; negative ones are all.
fn count_of(value: Option<&Value>) -> Outcome<Option<usize>> {
    match value {
        None => Ok(None),
        Some(value) => Ok(usize::try_from(int_of(value)?).ok()),
    }
}

fn text_method(machine: &Machine, own: &str, name: &str, arguments: Arguments) -> Outcome<Value> {
    let budget = &machine.budget;
    budget.make_times(own.len(), 2)?;
    let texts = |parts: Vec<&str>| {
        budget.make_times(parts.len(), size_of::<Value>())?;
        Value::list(parts.into_iter().map(Value::text).collect(), budget)
    };
    let positional_only = arguments.named.is_empty()
        || ["split", "rsplit", "splitlines", "format"].contains(&name)
        || name == "expandtabs"
        || name == "replace";
    if !positional_only {
        return fail(format!("TypeError: str.{name}() takes no keyword arguments"));
    }
    match name {
        "format" => Ok(Value::text(&format(own, &arguments, budget)?)),
        "upper" | "lower" | "casefold" | "capitalize" | "title" | "swapcase" | "isalnum" | "isalpha" | "isascii"
        | "isdecimal" | "isdigit" | "islower" | "isnumeric" | "isprintable" | "isspace" | "isupper" => {
            arguments.none(name)?;
            match name {
                "upper" => Ok(Value::text(&own.to_uppercase())),
                "lower" => Ok(Value::text(&own.to_lowercase())),
                "capitalize" => Ok(Value::text(&text::capitalize(own))),
                "title" => Ok(Value::text(&text::title(own))),
                "casefold" if own.is_ascii() => Ok(Value::text(&own.to_lowercase())),
                "swapcase" if own.is_ascii() => Ok(Value::text(&text::swap_case(own))),
                "casefold" | "swapcase" => fail(format!("`{name}` of letters beyond ASCII is not supported")),
                _ => text::is(name, own).map(Value::Bool),
            }
        }
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = arguments.bind(name, 0, ["/chars"])?;
            let characters = characters.filter(|value| !matches!(value, Value::None));
            let characters = characters.as_ref().map(text_of).transpose()?;
            Ok(Value::text(text::strip(own, characters, name != "rstrip", name != "lstrip")))
        }
        "removeprefix" | "removesuffix" => {
            let [part] = arguments.bind(name, 1, ["/part"])?;
            let part = part.unwrap_or(Value::None);
            let part = text_of(&part)?;
            let rest = if name == "removeprefix" { own.strip_prefix(part) } else { own.strip_suffix(part) };
            Ok(Value::text(rest.unwrap_or(own)))
        }
        "startswith" | "endswith" => {
            let [part] = arguments.bind(name, 1, ["/part"])?;
            let has = |part: &Value| {
                text_of(part).map(|part| if name == "startswith" { own.starts_with(part) } else { own.ends_with(part) })
            };
            match part.unwrap_or(Value::None) {
                Value::Tuple(parts) => {
                    for part in &parts.entries {
                        if has(part)? {
                            return Ok(Value::Bool(true));
                        }
                    }
                    Ok(Value::Bool(false))
                }
                part => has(&part).map(Value::Bool),
            }
        }
        "split" | "rsplit" => {
            let [separator, most] = arguments.bind(name, 0, ["sep", "maxsplit"])?;
            let most = count_of(most.as_ref())?;
            match separator.filter(|value| !matches!(value, Value::None)) {
                None => texts(text::split_space(own, most, name == "rsplit")),
                Some(separator) => {
                    let separator = text_of(&separator)?;
                    if separator.is_empty() {
                        return fail("ValueError: empty separator");
                    }
                    let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
                    if name == "split" {
                        return texts(own.splitn(most, separator).collect());
                    }
                    let mut parts: Vec<&str> = own.rsplitn(most, separator).collect();
                    parts.reverse();
                    texts(parts)
                }
            }
        }
        "splitlines" => {
            let [keep] = arguments.bind(name, 0, ["keepends"])?;
            texts(text::lines(own, keep.is_some_and(|keep| keep.truth())))
        }
        "partition" | "rpartition" => {
            let [separator] = arguments.bind(name, 1, ["/sep"])?;
            let separator = separator.unwrap_or(Value::None);
            let part = text_of(&separator)?;
            if part.is_empty() {
                return fail("ValueError: empty separator");
            }
            let found = if name == "partition" { own.split_once(part) } else { own.rsplit_once(part) };
            let parts = match found {
                Some((before, after)) => [before, part, after],
                None if name == "partition" => [own, "", ""],
                None => ["", "", own],
            };
            Value::tuple(parts.into_iter().map(Value::text).collect(), budget)
        }
        "replace" => {
            let [old, new, count] = arguments.bind(name, 2, ["/old", "/new", "count"])?;
            let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
            replace(machine, own, text_of(&old)?, text_of(&new)?, count_of(count.as_ref())?)
        }
        "join" => {
            let [parts] = arguments.bind(name, 1, ["/iterable"])?;
            let parts = parts.unwrap_or(Value::None).iterate(budget)?;
            let mut text = String::new();
            for (at, part) in parts.iter().enumerate() {
                let part = text_of(part)?;
                budget.make(part.len() + own.len())?;
                text.push_str(if at > 0 { own } else { "" });
                text.push_str(part);
            }
            Ok(Value::text(&text))
        }
        "count" | "find" | "rfind" | "index" | "rindex" => {
            let [part] = arguments.bind(name, 1, ["/part"])?;
            let part = part.unwrap_or(Value::None);
            let part = text_of(&part)?;
            if name == "count" {
                return Ok(Value::Int(own.matches(part).count() as i128));
            }
            match if name.starts_with('r') { own.rfind(part) } else { own.find(part) } {
                Some(at) => Ok(Value::Int(own[..at].chars().count() as i128)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => fail("ValueError: substring not found"),
            }
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = arguments.bind(name, 1, ["/width", "/fillchar"])?;
            let width = count_of(width.as_ref())?.unwrap_or(0);
            let fill = fill.unwrap_or_else(|| Value::text(" "));
            let fill = text_of(&fill)?;
            let mut characters = fill.chars();
            let (Some(fill), None) = (characters.next(), characters.next()) else {
                return fail("TypeError: The fill character must be exactly one character long");
            };
            budget.make_times(4, width)?;
            Ok(Value::text(&text::pad(own, width, fill, name)))
        }
        "zfill" => {
            let [width] = arguments.bind(name, 1, ["/width"])?;
            let width = count_of(width.as_ref())?.unwrap_or(0);
            budget.make(width)?;
            let signed = own.starts_with(['+', '-']);
            let (sign, digits) = own.split_at(usize::from(signed));
            Ok(Value::text(&(sign.to_owned() + &text::pad(digits, width.saturating_sub(sign.len()), '0', "rjust"))))
        }
        _ => fail(format!("the method `{name}` of a text is not supported")),
    }
}

/// `old` replaced by `new`, the first `count` times.
pub(super) fn replace(machine: &Machine, own: &str, old: &str, new: &str, count: Option<usize>) -> Outcome<Value> {
    let found = if old.is_empty() { own.chars().count() + 1 } else { own.matches(old).count() };
    machine.budget.make(own.len())?;
    machine.budget.make_times(new.len(), found.min(count.unwrap_or(usize::MAX)))?;
    Ok(Value::text(&match count {
        Some(count) => own.replacen(old, new, count),
        None => own.replace(old, new),
    }))
}

/// The text of a value, as filters take it.
pub(super) fn soft_text(machine: &Machine, value: &Value) -> Outcome<String> {
    to_text(value, &machine.budget)
}
