//! Attributes, items and slices.

use std::rc::Rc;

use super::budget::Budget;
use super::error::{Outcome, fail};
use super::methods::is_attribute;
use super::operators::undefined_used;
use super::value::{Key, Value};

/// `value.name`: Python's attribute, or else the item of this name.
pub(super) fn attribute(value: &Value, name: &str) -> Outcome<Value> {
    if let Value::Undefined(_) = value {
        return undefined_used(value);
    }
    if let Some(found) = own_attribute(value, name)? {
        return Ok(found);
    }
    if let Value::Dict(dict) = value
        && let Some(found) = dict.text(name)
    {
        return Ok(found.clone());
    }
    Ok(missing(value, name))
}

/// `value[key]`: the item, or else Python's attribute of this name.
pub(super) fn item(value: &Value, key: &Value) -> Outcome<Value> {
    let found = match value {
        Value::Undefined(_) => return undefined_used(value),
        Value::Dict(dict) => Key::of(key).ok().and_then(|key| dict.get(&key).cloned()),
        Value::List(list) | Value::Tuple(list) => {
            key.as_int().and_then(|index| list.entries.get(position(index, list.entries.len())?).cloned())
        }
        Value::Range(range) => key.as_int().and_then(|index| range.get(position(index, range.len())?)),
        Value::Text(text) => key.as_int().and_then(|index| {
            let index = if index < 0 { position(index, text.chars().count())? } else { usize::try_from(index).ok()? };
            text.chars().nth(index).map(|c| Value::text(c.encode_utf8(&mut [0; 4])))
        }),
        Value::Markup(_) => return fail("an index of safe HTML is not supported"),
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    match key.as_text() {
        Some(name) => Ok(own_attribute(value, name)?.unwrap_or_else(|| missing(value, name))),
        None => Ok(Value::Undefined(format!("{} object has no such element", value.type_name()).into())),
    }
}

fn missing(value: &Value, name: &str) -> Value {
    Value::Undefined(format!("'{} object' has no attribute '{name}'", value.type_name()).into())
}

/// An attribute that Python's object has, not an item.
pub(super) fn own_attribute(value: &Value, name: &str) -> Outcome<Option<Value>> {
    match value {
        Value::Namespace(dict) => Ok(dict.borrow().text(name).cloned()),
        Value::Loop(state) => state.attribute(name),
        _ if name.starts_with("__") => fail(format!("SecurityError: access to attribute '{name}' is unsafe")),
        _ if is_attribute(value, name) => Ok(Some(Value::Method(Rc::new((value.clone(), name.into()))))),
        _ => Ok(None),
    }
}

/// Python's index, negative from the end.
fn position(index: i128, length: usize) -> Option<usize> {
    usize::try_from(if index < 0 { index + length as i128 } else { index }).ok()
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, bounds: &[Option<Value>; 3], budget: &Budget) -> Outcome<Value> {
    let number = |bound: &Option<Value>| match bound {
        None | Some(Value::None) => Ok(None),
        Some(bound) => match bound.as_int() {
            Some(bound) => Ok(Some(bound)),
            None => fail("TypeError: slice indices must be integers or None"),
        },
    };
    let (start, stop, step) = (number(&bounds[0])?, number(&bounds[1])?, number(&bounds[2])?.unwrap_or(1));
    if step == 0 {
        return fail("ValueError: slice step cannot be zero");
    }
    let pick = |length: usize| -> Vec<usize> {
        let length = length as i128;
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let clamp = |bound: i128| (if bound < 0 { bound + length } else { bound }).clamp(low, high);
        let start = start.map_or(if step > 0 { low } else { high }, clamp);
        let stop = stop.map_or(if step > 0 { high } else { low }, clamp);
        let (mut at, mut found) = (start, Vec::new());
        while if step > 0 { at < stop } else { at > stop } {
            found.push(at as usize);
            at = at.saturating_add(step);
        }
        found
    };
    match value {
        Value::Undefined(_) => undefined_used(value),
        Value::Text(text) => {
            budget.make_times(text.len(), 4)?;
            let characters: Vec<char> = text.chars().collect();
            let text: String = pick(characters.len()).into_iter().map(|at| characters[at]).collect();
            Ok(Value::text(&text))
        }
        Value::List(list) | Value::Tuple(list) => {
            budget.make_times(list.entries.len(), 8)?;
            let entries = pick(list.entries.len()).into_iter().map(|at| list.entries[at].clone()).collect();
            if matches!(value, Value::List(_)) { Value::list(entries, budget) } else { Value::tuple(entries, budget) }
        }
        Value::Range(_) => fail("a slice of a range is not supported"),
        other => fail(format!("TypeError: '{}' object is not subscriptable", other.type_name())),
    }
}
