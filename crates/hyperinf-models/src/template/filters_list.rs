//! Filters of lists and dictionaries.

use std::cmp::Ordering;

use super::access::item;
use super::calls::Arguments;
use super::checks;
use super::error::{Outcome, fail};
use super::filters::{self, number};
use super::machine::Machine;
use super::operators::{binary, order};
use super::repr::to_text;
use super::syntax::Binary;
use super::value::{Key, Value, View};

/// Applies a filter of lists.
pub(super) fn apply(machine: &Machine, name: &str, input: &Value, mut arguments: Arguments) -> Outcome<Value> {
    let budget = &machine.budget;
    match name {
        "length" | "count" => {
            arguments.none(name)?;
            Ok(Value::Int(input.len()? as i128))
        }
        "list" => {
            arguments.none(name)?;
            Value::list(input.iterate(budget)?, budget)
        }
        "first" | "last" => {
            arguments.none(name)?;
            if name == "last" && matches!(input, Value::Generator(_)) {
                return fail("TypeError: 'generator' object is not reversible");
            }
            let entries = input.iterate(budget)?;
            let entry = if name == "first" { entries.first() } else { entries.last() };
            Ok(entry.cloned().unwrap_or_else(|| Value::Undefined("No item, sequence was empty.".into())))
        }
        "reverse" => {
            arguments.none(name)?;
            if let Value::Text(text) = input {
                budget.make(text.len())?;
                return Ok(Value::text(&text.chars().rev().collect::<String>()));
            }
            let mut entries = input.iterate(budget)?;
            entries.reverse();
            if matches!(input, Value::Generator(_) | Value::Undefined(_)) {
                return Value::list(entries, budget);
            }
            Value::generator(entries, budget)
        }
        "items" => {
            arguments.none(name)?;
            match input {
                Value::Undefined(_) => Value::generator(Vec::new(), budget),
                Value::Dict(dict) => Value::generator(Value::View(View::Items, dict.clone()).iterate(budget)?, budget),
                _ => fail("TypeError: Can only get item pairs from a mapping."),
            }
        }
        "join" => {
            let [separator, by] = arguments.bind(name, 0, ["d", "attribute"])?;
            let separator = separator.map(|text| to_text(&text, budget)).transpose()?.unwrap_or_default();
            let mut text = String::new();
            for (at, entry) in input.iterate(budget)?.iter().enumerate() {
                let part = match &by {
                    Some(by) if !matches!(by, Value::None) => to_text(&path(machine, entry, by, None)?, budget)?,
                    _ => to_text(entry, budget)?,
                };
                budget.make(separator.len() + part.len())?;
                text.push_str(if at > 0 { &separator } else { "" });
                text.push_str(&part);
            }
            Ok(Value::text(&text))
        }
        "map" => map(machine, input, arguments),
        "select" | "reject" | "selectattr" | "rejectattr" => {
            let by = if name.ends_with("attr") {
                if arguments.positional.is_empty() {
                    return fail("FilterArgumentError: Missing parameter for attribute name");
                }
                Some(arguments.positional.remove(0))
            } else {
                None
            };
            let test = if arguments.positional.is_empty() { None } else { Some(arguments.positional.remove(0)) };
            let test = test.map(|test| to_text(&test, budget)).transpose()?;
            if let Some(test) = &test
                && !checks::TESTS.contains(&test.as_str())
            {
                return fail(format!("TemplateRuntimeError: No test named '{test}'."));
            }
            let mut kept = Vec::new();
            for entry in input.iterate(budget)? {
                budget.steps(1)?;
                let value = by.as_ref().map_or_else(|| Ok(entry.clone()), |by| path(machine, &entry, by, None))?;
                let passes = match &test {
                    Some(test) => checks::apply(machine, test, &value, &arguments)?,
                    None => value.truth(),
                };
                if passes == name.starts_with("select") {
                    kept.push(entry);
                }
            }
            Value::generator(kept, budget)
        }
        "sort" => {
            let [reverse, case, by] = arguments.bind(name, 0, ["reverse", "case_sensitive", "attribute"])?;
            let entries = input.iterate(budget)?;
            Value::list(sorted(machine, entries, by.as_ref(), is(&case), is(&reverse))?, budget)
        }
        "dictsort" => {
            let [case, by, reverse] = arguments.bind(name, 0, ["case_sensitive", "by", "reverse"])?;
            let Value::Dict(dict) = input else {
                return fail(format!("TypeError: '{}' has no items to sort", input.type_name()));
            };
            let by = match by.as_ref().map(|by| by.as_text().map(|by| &**by)) {
                None | Some(Some("key")) => Value::Int(0),
                Some(Some("value")) => Value::Int(1),
                _ => return fail("FilterArgumentError: You can only sort by either \"key\" or \"value\""),
            };
            let entries = Value::View(View::Items, dict.clone()).iterate(budget)?;
            Value::list(sorted(machine, entries, Some(&by), is(&case), is(&reverse))?, budget)
        }
        "unique" => {
            let [case, by] = arguments.bind(name, 0, ["case_sensitive", "attribute"])?;
            let (mut seen, mut kept) = (std::collections::HashSet::new(), Vec::new());
            for entry in input.iterate(budget)? {
                if seen.insert(Key::of(&sort_key(machine, &entry, by.as_ref(), is(&case))?)?) {
                    kept.push(entry);
                }
            }
            Value::generator(kept, budget)
        }
        "groupby" => {
            let [by, default, case] = arguments.bind(name, 1, ["attribute", "default", "case_sensitive"])?;
            let by = by.unwrap_or(Value::None);
            let mut keyed = Vec::new();
            for entry in input.iterate(budget)? {
                let key = path(machine, &entry, &by, default.as_ref())?;
                keyed.push((folded(key.clone(), is(&case)), key, entry));
            }
            sort_by(machine, &mut keyed, |entry| vec![&entry.0], false)?;
            let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
            for (folded, key, entry) in keyed {
                match groups.last_mut() {
                    Some(last) if super::operators::equal(&last.0, &folded, budget)? => last.2.push(entry),
                    _ => groups.push((folded, key, vec![entry])),
                }
            }
            let group = |(_, key, entries): (_, Value, Vec<Value>)| {
                Value::tuple(vec![key, Value::list(entries, budget)?], budget)
            };
            Value::list(groups.into_iter().map(group).collect::<Outcome<_>>()?, budget)
        }
        "min" | "max" => {
            let [case, by] = arguments.bind(name, 0, ["case_sensitive", "attribute"])?;
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let mut best: Option<(Value, Value)> = None;
            for entry in input.iterate(budget)? {
                let key = sort_key(machine, &entry, by.as_ref(), is(&case))?;
                let better = match &best {
                    Some((best, _)) => order(&key, best, budget)? == Some(wanted),
                    None => true,
                };
                if better {
                    best = Some((key, entry));
                }
            }
            let none = || Value::Undefined("No aggregated item, sequence was empty.".into());
            Ok(best.map_or_else(none, |(_, entry)| entry))
        }
        "sum" => {
            let [by, start] = arguments.bind(name, 0, ["attribute", "start"])?;
            let mut total = start.unwrap_or(Value::Int(0));
            if total.as_float().is_none() {
                return fail("a `sum` of other things than numbers is not supported");
            }
            for entry in input.iterate(budget)? {
                let entry = match &by {
                    Some(by) if !matches!(by, Value::None) => path(machine, &entry, by, None)?,
                    _ => entry,
                };
                if matches!(entry, Value::Float(_)) || matches!(total, Value::Float(_)) {
                    return fail("a `sum` of numbers with a fraction is not supported");
                }
                total = binary(Binary::Add, &total, &entry, budget)?;
            }
            Ok(total)
        }
        "batch" => {
            let [count, fill] = arguments.bind(name, 1, ["linecount", "fill_with"])?;
            let count = number(count.as_ref(), 0)?.clamp(1, i128::from(u32::MAX)) as usize;
            let mut rows = Vec::new();
            for row in input.iterate(budget)?.chunks(count) {
                rows.push(Value::list(filled(machine, row.to_vec(), count, fill.as_ref())?, budget)?);
            }
            Value::generator(rows, budget)
        }
        "slice" => {
            let [count, fill] = arguments.bind(name, 1, ["slices", "fill_with"])?;
            let count = number(count.as_ref(), 0)?;
            let entries = input.iterate(budget)?;
            let Some(count) = usize::try_from(count).ok().filter(|&count| count > 0) else {
                return fail("ZeroDivisionError: the number of slices is not positive");
            };
            budget.make_times(size_of::<Value>(), count)?;
            let (each, more) = (entries.len() / count, entries.len() % count);
            let (mut rows, mut rest) = (Vec::new(), &entries[..]);
            for at in 0..count {
                let (row, after) = rest.split_at(each + usize::from(at < more));
                rest = after;
                let mut row = row.to_vec();
                if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None))
                    && at >= more
                {
                    row.push(fill.clone());
                }
                rows.push(Value::list(row, budget)?);
            }
            Value::generator(rows, budget)
        }
        _ => fail(format!("the filter `{name}` is not supported")),
    }
}

fn is(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::truth)
}

fn filled(machine: &Machine, mut row: Vec<Value>, count: usize, fill: Option<&Value>) -> Outcome<Vec<Value>> {
    if let Some(fill) = fill.filter(|fill| !matches!(fill, Value::None)) {
        machine.budget.make_times(size_of::<Value>(), count)?;
        row.resize(count, fill.clone());
    }
    Ok(row)
}

/// An attribute as filters name it: `a.b.0`, or a number.
fn path(machine: &Machine, value: &Value, by: &Value, default: Option<&Value>) -> Outcome<Value> {
    let Some(names) = by.as_text() else {
        return or_default(item(value, by)?, default);
    };
    let mut found = value.clone();
    for name in names.split('.') {
        machine.budget.steps(1)?;
        let key = match name.parse::<u32>() {
            Ok(index) => Value::Int(index.into()),
            Err(_) => Value::text(name),
        };
        found = or_default(item(&found, &key)?, default)?;
    }
    Ok(found)
}

fn or_default(value: Value, default: Option<&Value>) -> Outcome<Value> {
    Ok(match (value, default) {
        (Value::Undefined(_), Some(default)) if !matches!(default, Value::None) => default.clone(),
        (value, _) => value,
    })
}

/// Lower case, unless case matters.
fn folded(value: Value, case_sensitive: bool) -> Value {
    match &value {
        Value::Text(text) if !case_sensitive => Value::text(&text.to_lowercase()),
        _ => value,
    }
}

fn sort_key(machine: &Machine, value: &Value, by: Option<&Value>, case_sensitive: bool) -> Outcome<Value> {
    let value = match by {
        Some(by) if !matches!(by, Value::None) => path(machine, value, by, None)?,
        _ => value.clone(),
    };
    if let Value::Text(text) = &value {
        machine.budget.make(text.len())?;
    }
    Ok(folded(value, case_sensitive))
}

fn sorted(
    machine: &Machine,
    entries: Vec<Value>,
    by: Option<&Value>,
    case_sensitive: bool,
    reverse: bool,
) -> Outcome<Vec<Value>> {
    // Several attributes are separated by commas.
    let names: Vec<Value> = match by.and_then(Value::as_text) {
        Some(names) => names.split(',').map(Value::text).collect(),
        None => vec![by.cloned().unwrap_or(Value::None)],
    };
    let mut keyed = Vec::new();
    for entry in entries {
        let keys = names.iter().map(|by| sort_key(machine, &entry, Some(by), case_sensitive));
        keyed.push((keys.collect::<Outcome<Vec<_>>>()?, entry));
    }
    sort_by(machine, &mut keyed, |entry| entry.0.iter().collect(), reverse)?;
    Ok(keyed.into_iter().map(|(_, entry)| entry).collect())
}

/// A stable sort that reports values without an order.
fn sort_by<T>(machine: &Machine, entries: &mut Vec<T>, keys: impl Fn(&T) -> Vec<&Value>, reverse: bool) -> Outcome<()> {
    let before = |a: &T, b: &T| -> Outcome<bool> {
        for (a, b) in keys(a).into_iter().zip(keys(b)) {
            match order(a, b, &machine.budget)? {
                Some(Ordering::Equal) => {}
                Some(found) => return Ok((found == Ordering::Greater) == reverse),
                None => return fail("sorting nan is not supported"),
            }
        }
        Ok(false)
    };
    // Merges runs of doubled length. The standard library's sort takes no comparison that fails.
    let mut runs: Vec<Vec<T>> = entries.drain(..).map(|entry| vec![entry]).collect();
    while runs.len() > 1 {
        let mut merged = Vec::with_capacity(runs.len().div_ceil(2));
        let mut rest = runs.into_iter();
        while let Some(left) = rest.next() {
            let Some(right) = rest.next() else {
                merged.push(left);
                break;
            };
            let mut run = Vec::with_capacity(left.len() + right.len());
            let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
            while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
                let next = if before(b, a)? { right.next() } else { left.next() };
                run.extend(next);
            }
            run.extend(left);
            run.extend(right);
            merged.push(run);
        }
        runs = merged;
    }
    entries.extend(runs.into_iter().flatten());
    Ok(())
}

fn map(machine: &Machine, input: &Value, mut arguments: Arguments) -> Outcome<Value> {
    let budget = &machine.budget;
    let mut mapped = Vec::new();
    if arguments.positional.is_empty() {
        let Some(by) = arguments.take("attribute") else {
            return fail("FilterArgumentError: map requires a filter argument");
        };
        let default = arguments.take("default");
        arguments.none("map")?;
        for entry in input.iterate(budget)? {
            mapped.push(path(machine, &entry, &by, default.as_ref())?);
        }
        return Value::generator(mapped, budget);
    }
    let name = to_text(&arguments.positional.remove(0), budget)?;
    if !filters::FILTERS.contains(&name.as_str()) {
        return fail(format!("TemplateRuntimeError: No filter named '{name}'."));
    }
    for entry in input.iterate(budget)? {
        let arguments = Arguments { positional: arguments.positional.clone(), named: arguments.named.clone() };
        mapped.push(budget.deeper(|| filters::apply(machine, &name, &entry, arguments))?);
    }
    Value::generator(mapped, budget)
}
