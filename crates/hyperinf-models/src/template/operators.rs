//! Python's operators, attributes and items.

use std::cmp::Ordering;
use std::rc::Rc;

use super::budget::Budget;
use super::error::{Outcome, fail};
use super::format::percent;
use super::repr::to_text;
use super::syntax::{Binary, Comparison};
use super::value::{Key, Value};

/// A binary operator but `and` and `or`.
pub(super) fn binary(op: Binary, left: &Value, right: &Value, budget: &Budget) -> Outcome<Value> {
    if matches!(op, Binary::Concat) {
        return concat(left, right, budget);
    }
    if let Some(undefined) = [left, right].into_iter().find(|value| matches!(value, Value::Undefined(_))) {
        return undefined_used(undefined);
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return integers(op, a, b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return floats(op, a, b);
    }
    match (op, left, right) {
        (Binary::Add, Value::Text(a), Value::Text(b)) => {
            budget.make(a.len() + b.len())?;
            Ok(Value::text(&[&**a, &**b].concat()))
        }
        (Binary::Add, Value::Text(_) | Value::Markup(_), Value::Text(_) | Value::Markup(_)) => {
            add_markup(left, right, budget)
        }
        (Binary::Add, Value::List(a), Value::List(b)) => {
            budget.make((a.entries.len() + b.entries.len()) * size_of::<Value>())?;
            Value::list([&*a.entries, &*b.entries].concat(), budget)
        }
        (Binary::Add, Value::Tuple(a), Value::Tuple(b)) => {
            budget.make((a.entries.len() + b.entries.len()) * size_of::<Value>())?;
            Value::tuple([&*a.entries, &*b.entries].concat(), budget)
        }
        (Binary::Multiply, value, count) if count.as_int().is_some() => repeat(value, count, budget),
        (Binary::Multiply, count, value) if count.as_int().is_some() => repeat(value, count, budget),
        (Binary::Remainder, Value::Text(format), arguments) => Ok(Value::text(&percent(format, arguments, budget)?)),
        _ => unsupported(op, left, right),
    }
}

fn symbol(op: Binary) -> &'static str {
    match op {
        Binary::Add => "+",
        Binary::Subtract => "-",
        Binary::Multiply => "*",
        Binary::Divide => "/",
        Binary::FloorDivide => "//",
        Binary::Remainder => "%",
        Binary::Power => "**",
        Binary::Concat => "~",
        Binary::And => "and",
        Binary::Or => "or",
    }
}

fn unsupported<T>(op: Binary, left: &Value, right: &Value) -> Outcome<T> {
    let (op, a, b) = (symbol(op), left.type_name(), right.type_name());
    fail(format!("TypeError: unsupported operand type(s) for {op}: '{a}' and '{b}'"))
}

pub(super) fn undefined_used<T>(value: &Value) -> Outcome<T> {
    match value {
        Value::Undefined(reason) => fail(format!("UndefinedError: {reason}")),
        other => fail(format!("TypeError: a {} cannot be used here", other.type_name())),
    }
}

/// `~`: both as text.
fn concat(left: &Value, right: &Value, budget: &Budget) -> Outcome<Value> {
    let (left, right) = (to_text(left, budget)?, to_text(right, budget)?);
    budget.make(left.len() + right.len())?;
    Ok(Value::text(&(left + &right)))
}

/// `+` with safe HTML: what is not safe is escaped.
fn add_markup(left: &Value, right: &Value, budget: &Budget) -> Outcome<Value> {
    let mut text = String::new();
    for value in [left, right] {
        let part = to_text(value, budget)?;
        text.push_str(&if matches!(value, Value::Markup(_)) { part } else { escape(&part, budget)? });
    }
    budget.make(text.len())?;
    Ok(Value::Markup(text.into()))
}

/// HTML's special characters as markupsafe writes them.
pub(super) fn escape(text: &str, budget: &Budget) -> Outcome<String> {
    budget.make_times(text.len(), 2)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    budget.make(out.len())?;
    Ok(out)
}

fn repeat(value: &Value, count: &Value, budget: &Budget) -> Outcome<Value> {
    let count = usize::try_from(count.as_int().unwrap_or(0).max(0)).unwrap_or(usize::MAX);
    match value {
        Value::Text(text) => {
            budget.make_times(text.len().max(1), count)?;
            Ok(Value::text(&text.repeat(count)))
        }
        Value::List(list) | Value::Tuple(list) => {
            budget.make_times(list.entries.len().max(1) * size_of::<Value>(), count)?;
            let entries = (0..count).flat_map(|_| list.entries.iter().cloned()).collect();
            if matches!(value, Value::List(_)) { Value::list(entries, budget) } else { Value::tuple(entries, budget) }
        }
        other => unsupported(Binary::Multiply, other, &Value::Int(0)),
    }
}

fn integers(op: Binary, a: i128, b: i128) -> Outcome<Value> {
    let result = match op {
        Binary::Add => a.checked_add(b),
        Binary::Subtract => a.checked_sub(b),
        Binary::Multiply => a.checked_mul(b),
        Binary::Divide | Binary::FloorDivide | Binary::Remainder if b == 0 => {
            return fail("ZeroDivisionError: division by zero");
        }
        Binary::Divide if a.abs().max(b.abs()) < 1 << 53 => return Ok(Value::Float(a as f64 / b as f64)),
        Binary::Divide => return fail("the division of such large numbers is not supported"),
        Binary::FloorDivide => a.checked_div_euclid(b).and_then(|quotient| {
            // Euclid's remainder is never negative, Python's has the sign of the divisor.
            if b < 0 && a.rem_euclid(b) != 0 { quotient.checked_sub(1) } else { Some(quotient) }
        }),
        Binary::Remainder => a.checked_rem_euclid(b).map(|rest| if b < 0 && rest != 0 { rest + b } else { rest }),
        Binary::Power if b < 0 => return floats(op, a as f64, b as f64),
        Binary::Power => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        Binary::Concat | Binary::And | Binary::Or => None,
    };
    result.map_or_else(|| fail("whole numbers beyond 128 bits are not supported"), |value| Ok(Value::Int(value)))
}

fn floats(op: Binary, a: f64, b: f64) -> Outcome<Value> {
    Ok(Value::Float(match op {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide | Binary::FloorDivide | Binary::Remainder if b == 0.0 => {
            return fail("ZeroDivisionError: division by zero");
        }
        Binary::Divide => a / b,
        Binary::FloorDivide => floor_divide(a, b).0,
        Binary::Remainder => floor_divide(a, b).1,
        Binary::Power if a == 0.0 && b < 0.0 => return fail("ZeroDivisionError: zero to a negative power"),
        Binary::Power if a < 0.0 && b.fract() != 0.0 => return fail("complex numbers are not supported"),
        Binary::Power => match a.powf(b) {
            result if result.is_infinite() && a.is_finite() && b.is_finite() => {
                return fail("OverflowError: Result too large");
            }
            result => result,
        },
        Binary::Concat | Binary::And | Binary::Or => f64::NAN,
    }))
}

/// The quotient and the remainder as CPython computes them.
fn floor_divide(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(b);
    } else if (rest < 0.0) != (b < 0.0) {
        rest += b;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(a / b), rest);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, rest)
}

/// `-value`.
pub(super) fn negative(value: &Value) -> Outcome<Value> {
    match value {
        Value::Undefined(_) => undefined_used(value),
        Value::Float(value) => Ok(Value::Float(-value)),
        other => match other.as_int().and_then(i128::checked_neg) {
            Some(value) => Ok(Value::Int(value)),
            None => fail(format!("TypeError: bad operand type for unary -: '{}'", other.type_name())),
        },
    }
}

/// A comparison of two values.
pub(super) fn compare(op: Comparison, left: &Value, right: &Value, budget: &Budget) -> Outcome<bool> {
    Ok(match op {
        Comparison::Equal => equal(left, right, budget)?,
        Comparison::NotEqual => !equal(left, right, budget)?,
        Comparison::In => contains(right, left, budget)?,
        Comparison::NotIn => !contains(right, left, budget)?,
        Comparison::Less => order(left, right, budget)? == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order(left, right, budget)?, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order(left, right, budget)? == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order(left, right, budget)?, Some(Ordering::Greater | Ordering::Equal)),
    })
}

/// Python's `==`.
pub(super) fn equal(left: &Value, right: &Value, budget: &Budget) -> Outcome<bool> {
    budget.steps(1)?;
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (left.as_text(), right.as_text()) {
        budget.read(a.len().min(b.len()))?;
        return Ok(a == b);
    }
    Ok(match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (a, b) in a.entries.iter().zip(&b.entries) {
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in a.entries() {
                match b.get(&Key::of(key)?) {
                    Some(other) if equal(value, other, budget)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(a), Value::Range(b)) if a == b => true,
        (Value::Range(_), Value::Range(_))
        | (Value::View(..), Value::View(..))
        | (Value::Method(_), Value::Method(_)) => {
            return fail(format!("comparing two {}s is not supported", left.type_name()));
        }
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Generator(a), Value::Generator(b)) => Rc::ptr_eq(a, b),
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        (Value::Loop(a), Value::Loop(b)) => Rc::ptr_eq(a, b),
        (Value::Cycler(a), Value::Cycler(b)) => Rc::ptr_eq(a, b),
        (Value::Joiner(a), Value::Joiner(b)) => Rc::ptr_eq(a, b),
        (Value::Function(a), Value::Function(b)) => a == b,
        _ => false,
    })
}

/// Python's order of two values; `None` if one is not a number.
pub(super) fn order(left: &Value, right: &Value, budget: &Budget) -> Outcome<Option<Ordering>> {
    budget.steps(1)?;
    if let Some(undefined) = [left, right].into_iter().find(|value| matches!(value, Value::Undefined(_))) {
        return undefined_used(undefined);
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return Ok(Some(a.cmp(&b)));
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return Ok(a.partial_cmp(&b));
    }
    if let (Some(a), Some(b)) = (left.as_text(), right.as_text()) {
        budget.read(a.len().min(b.len()))?;
        return Ok(Some(a.cmp(b)));
    }
    match (left, right) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (x, y) in a.entries.iter().zip(&b.entries) {
                if !equal(x, y, budget)? {
                    return order(x, y, budget);
                }
            }
            Ok(Some(a.entries.len().cmp(&b.entries.len())))
        }
        _ => {
            let (a, b) = (left.type_name(), right.type_name());
            fail(format!("TypeError: '<' not supported between instances of '{a}' and '{b}'"))
        }
    }
}

/// Python's `value in container`.
pub(super) fn contains(container: &Value, value: &Value, budget: &Budget) -> Outcome<bool> {
    match container {
        Value::Text(text) | Value::Markup(text) => match value.as_text() {
            Some(part) => {
                budget.read(text.len())?;
                Ok(text.contains(&**part))
            }
            None => {
                let kind = value.type_name();
                fail(format!("TypeError: 'in <string>' requires string as left operand, not {kind}"))
            }
        },
        Value::Dict(dict) => Ok(dict.get(&Key::of(value)?).is_some()),
        Value::Range(_) if value.as_float().is_none() => Ok(false),
        Value::List(list) | Value::Tuple(list) => any_equal(&list.entries, value, budget),
        other => any_equal(&other.iterate(budget)?, value, budget),
    }
}

fn any_equal(entries: &[Value], value: &Value, budget: &Budget) -> Outcome<bool> {
    for entry in entries {
        if equal(entry, value, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}
