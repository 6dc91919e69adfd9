//! The tests of Jinja: `value is …`.

use super::calls::Arguments;
use super::error::{Outcome, fail};
use super::filters::FILTERS;
use super::machine::Machine;
use super::operators::{binary, compare, equal, undefined_used};
use super::repr::to_text;
use super::syntax::{Binary, Comparison};
use super::text;
use super::value::{Value, View};

pub(super) const TESTS: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Whether the value passes the test.
pub(super) fn apply(machine: &Machine, name: &str, value: &Value, arguments: &Arguments) -> Outcome<bool> {
    let budget = &machine.budget;
    if !arguments.named.is_empty() {
        return fail(format!("the test `{name}` takes no named arguments"));
    }
    let comparison = match name {
        "eq" | "==" | "equalto" => Some(Comparison::Equal),
        "ne" | "!=" => Some(Comparison::NotEqual),
        "lt" | "<" | "lessthan" => Some(Comparison::Less),
        "le" | "<=" => Some(Comparison::LessOrEqual),
        "gt" | ">" | "greaterthan" => Some(Comparison::Greater),
        "ge" | ">=" => Some(Comparison::GreaterOrEqual),
        "in" => Some(Comparison::In),
        _ => None,
    };
    let other = match &*arguments.positional {
        [] => None,
        [other] => Some(other),
        _ => return fail(format!("TypeError: the test `{name}` takes one argument")),
    };
    if let Some(comparison) = comparison {
        return match other {
            Some(other) => compare(comparison, value, other, budget),
            None => fail(format!("TypeError: the test `{name}` needs an argument")),
        };
    }
    match (name, other) {
        ("divisibleby", Some(other)) => {
            equal(&binary(Binary::Remainder, value, other, budget)?, &Value::Int(0), budget)
        }
        ("sameas", Some(other)) => match (value, other) {
            (Value::None, Value::None) => Ok(true),
            (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
            (a, b) if a.type_name() != b.type_name() => Ok(false),
            _ => fail(format!("`sameas` of a {} is not supported", value.type_name())),
        },
        ("divisibleby" | "sameas", None) => fail(format!("TypeError: the test `{name}` needs an argument")),
        (_, Some(_)) => fail(format!("TypeError: the test `{name}` takes no argument")),
        (_, None) => plain(machine, name, value),
    }
}

fn plain(machine: &Machine, name: &str, value: &Value) -> Outcome<bool> {
    let budget = &machine.budget;
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => value.as_text().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "escaped" => matches!(value, Value::Markup(_)),
        "callable" => matches!(
            value,
            Value::Function(_)
                | Value::Method(_)
                | Value::Macro(_)
                | Value::Loop(_)
                | Value::Joiner(_)
                | Value::Undefined(_)
        ),
        "sequence" => {
            matches!(value, Value::Undefined(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Range(_))
                || value.as_text().is_some()
        }
        "iterable" => {
            matches!(
                value,
                Value::Undefined(_)
                    | Value::List(_)
                    | Value::Tuple(_)
                    | Value::Dict(_)
                    | Value::Range(_)
                    | Value::View(View::Keys | View::Values | View::Items, _)
                    | Value::Generator(_)
                    | Value::Loop(_)
            ) || value.as_text().is_some()
        }
        "odd" | "even" => {
            let rest = binary(Binary::Remainder, value, &Value::Int(2), budget)?;
            equal(&rest, &Value::Int((name == "odd").into()), budget)?
        }
        "lower" | "upper" => {
            let method = if name == "lower" { "islower" } else { "isupper" };
            text::is(method, &to_text(value, budget)?)?
        }
        "filter" | "test" => {
            let known: &[&str] = if name == "filter" { &FILTERS } else { &TESTS };
            match value {
                Value::Undefined(_) => return undefined_used(value),
                value => value.as_text().is_some_and(|text| known.contains(&&**text)),
            }
        }
        _ => return fail(format!("there is no test named `{name}`")),
    })
}
