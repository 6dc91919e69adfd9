//! The values of a template, with Python's types.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use indexmap::IndexMap;

use super::budget::{Budget, VALUE_DEPTH};
use super::error::{Fail, Outcome, fail};
use super::machine::{LoopState, MacroValue};
use super::syntax::Literal;
use crate::Json;

#[derive(Clone)]
pub(super) enum Value {
    /// A name or attribute that does not exist; the reason for the error of using it.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<str>),
    /// A text that is marked as safe HTML.
    Markup(Rc<str>),
    List(Rc<List>),
    Tuple(Rc<List>),
    Dict(Rc<Dict>),
    /// `keys()`, `values()` or `items()` of a dictionary.
    View(View, Rc<Dict>),
    Range(Range),
    /// What Python evaluates lazily: it can be read once.
    Generator(Rc<Generator>),
    Namespace(Rc<RefCell<Dict>>),
    Macro(Rc<MacroValue>),
    Loop(Rc<LoopState>),
    Cycler(Rc<(List, RefCell<usize>)>),
    Joiner(Rc<(Rc<str>, RefCell<bool>)>),
    /// A function of the environment.
    Function(&'static str),
    /// A method of a value.
    Method(Rc<(Value, Rc<str>)>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// A list that never changes.
#[derive(Default)]
pub(super) struct List {
    pub(super) entries: Vec<Value>,
    depth: u32,
}

pub(super) struct Generator {
    pub(super) entries: RefCell<VecDeque<Value>>,
    depth: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) stop: i64,
    pub(super) step: i64,
}

/// A dictionary in the order of its keys' first insertion.
#[derive(Clone, Default)]
pub(super) struct Dict {
    map: IndexMap<Key, (Value, Value)>,
    depth: u32,
}

/// A hashable value; equal numbers of different types are one key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Int(i128),
    Float(u64),
    Text(Rc<str>),
    Tuple(Vec<Key>),
}

fn nested(depth: u32) -> Outcome<u32> {
    if depth > VALUE_DEPTH {
        return Err(Fail::Limit { limit: VALUE_DEPTH.into(), what: "values inside of each other" });
    }
    Ok(depth)
}

fn depth_of<'a>(values: impl IntoIterator<Item = &'a Value>) -> Outcome<u32> {
    nested(1 + values.into_iter().map(Value::depth).max().unwrap_or(0))
}

impl Range {
    pub(super) fn len(self) -> usize {
        let (start, stop, step) = (i128::from(self.start), i128::from(self.stop), i128::from(self.step));
        let (distance, step) = if step > 0 { (stop - start, step) } else { (start - stop, -step) };
        if distance <= 0 { 0 } else { ((distance - 1) / step + 1) as usize }
    }

    pub(super) fn get(self, index: usize) -> Option<Value> {
        (index < self.len()).then(|| Value::Int(i128::from(self.start) + index as i128 * i128::from(self.step)))
    }
}

impl Dict {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.map.get(key).map(|(_, value)| value)
    }

    pub(super) fn text(&self, key: &str) -> Option<&Value> {
        self.get(&Key::Text(key.into()))
    }

    pub(super) fn insert(&mut self, key: Value, value: Value) -> Outcome<()> {
        let hashed = Key::of(&key)?;
        self.depth = nested(self.depth.max(1 + value.depth()))?;
        match self.map.entry(hashed) {
            // The first of equal keys stays.
            indexmap::map::Entry::Occupied(mut entry) => entry.get_mut().1 = value,
            indexmap::map::Entry::Vacant(entry) => {
                entry.insert((key, value));
            }
        }
        Ok(())
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &(Value, Value)> {
        self.map.values()
    }
}

/// The most values in one key: tuples of tuples double with every level.
const KEY_VALUES: u64 = 10_000;

impl Key {
    pub(super) fn of(value: &Value) -> Outcome<Self> {
        Self::counted(value, &mut 0)
    }

    fn counted(value: &Value, count: &mut u64) -> Outcome<Self> {
        *count += 1;
        if *count > KEY_VALUES {
            return Err(Fail::Limit { limit: KEY_VALUES, what: "values in a key" });
        }
        Ok(match value {
            Value::None => Self::None,
            Value::Bool(value) => Self::Int((*value).into()),
            Value::Int(value) => Self::Int(*value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => Self::Int(*value as i128),
            Value::Float(value) => Self::Float(value.to_bits()),
            Value::Text(text) | Value::Markup(text) => Self::Text(text.clone()),
            Value::Tuple(list) => {
                Self::Tuple(list.entries.iter().map(|entry| Self::counted(entry, count)).collect::<Outcome<_>>()?)
            }
            other => return fail(format!("TypeError: unhashable type: '{}'", other.type_name())),
        })
    }
}

impl From<&Literal> for Value {
    fn from(literal: &Literal) -> Self {
        match literal {
            Literal::None => Self::None,
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(value) => Self::Int(*value),
            Literal::Float(value) => Self::Float(*value),
            Literal::Text(text) => Self::text(text),
        }
    }
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn list(entries: Vec<Value>, budget: &Budget) -> Outcome<Self> {
        budget.make(entries.len() * size_of::<Value>())?;
        Ok(Self::List(Rc::new(List { depth: depth_of(&entries)?, entries })))
    }

    pub(super) fn tuple(entries: Vec<Value>, budget: &Budget) -> Outcome<Self> {
        budget.make(entries.len() * size_of::<Value>())?;
        Ok(Self::Tuple(Rc::new(List { depth: depth_of(&entries)?, entries })))
    }

    pub(super) fn generator(entries: Vec<Value>, budget: &Budget) -> Outcome<Self> {
        budget.make(entries.len() * size_of::<Value>())?;
        let depth = depth_of(&entries)?;
        Ok(Self::Generator(Rc::new(Generator { entries: RefCell::new(entries.into()), depth })))
    }

    pub(super) fn cycler(entries: Vec<Value>) -> Outcome<Self> {
        let depth = depth_of(&entries)?;
        Ok(Self::Cycler(Rc::new((List { entries, depth }, RefCell::new(0)))))
    }

    pub(super) fn dict(pairs: impl IntoIterator<Item = (Value, Value)>, budget: &Budget) -> Outcome<Self> {
        let mut dict = Dict::default();
        for (key, value) in pairs {
            budget.make(4 * size_of::<Value>())?;
            dict.insert(key, value)?;
        }
        Ok(Self::Dict(Rc::new(dict)))
    }

    /// A value of a row.
    pub(super) fn of_json(json: &Json, budget: &Budget) -> Outcome<Self> {
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(value), _, _) => Self::Int(value.into()),
                (None, Some(value), _) => Self::Int(value.into()),
                (None, None, Some(value)) => Self::Float(value),
                (None, None, None) => return fail(format!("the number {number} is not supported")),
            },
            Json::Large(digits) => match digits.parse() {
                Ok(value) => Self::Int(value),
                Err(_) => return fail("whole numbers beyond 128 bits are not supported"),
            },
            Json::String(text) => Self::text(text),
            Json::Array(entries) => {
                let entries = entries.iter().map(|entry| Self::of_json(entry, budget));
                Self::list(entries.collect::<Outcome<_>>()?, budget)?
            }
            Json::Object(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| Ok((Self::text(key), Self::of_json(value, budget)?)));
                Self::dict(pairs.collect::<Outcome<Vec<_>>>()?, budget)?
            }
        })
    }

    /// How deeply values are nested in it.
    pub(super) fn depth(&self) -> u32 {
        match self {
            Self::List(list) | Self::Tuple(list) => list.depth,
            Self::Dict(dict) => dict.depth,
            Self::View(_, dict) => dict.depth + 1,
            Self::Generator(generator) => generator.depth,
            Self::Namespace(dict) => dict.borrow().depth,
            Self::Cycler(cycler) => cycler.0.depth,
            Self::Loop(state) => state.depth_of_values,
            Self::Method(method) => method.0.depth() + 1,
            _ => 0,
        }
    }

    /// Its text, if it is one.
    pub(super) fn as_text(&self) -> Option<&Rc<str>> {
        match self {
            Self::Text(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// Its number, if it is a whole one; truth values are.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some((*value).into()),
            _ => None,
        }
    }

    /// Its number, if it is one.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    /// Whether Python takes it for true.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) | Self::Markup(text) => !text.is_empty(),
            Self::List(list) | Self::Tuple(list) => !list.entries.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => dict.len() > 0,
            Self::Range(range) => range.len() > 0,
            Self::Loop(_)
            | Self::Generator(_)
            | Self::Namespace(_)
            | Self::Macro(_)
            | Self::Cycler(_)
            | Self::Joiner(_)
            | Self::Function(_)
            | Self::Method(_) => true,
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Generator(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Macro(_) => "Macro",
            Self::Loop(_) => "LoopContext",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::Function(_) => "function",
            Self::Method(_) => "builtin_function_or_method",
        }
    }

    /// Its length, as Python's `len` has it.
    pub(super) fn len(&self) -> Outcome<usize> {
        Ok(match self {
            Self::Undefined(_) => 0,
            Self::Text(text) | Self::Markup(text) => text.chars().count(),
            Self::List(list) | Self::Tuple(list) => list.entries.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.len(),
            Self::Range(range) => range.len(),
            Self::Loop(state) => state.entries.len(),
            other => return fail(format!("TypeError: object of type '{}' has no len()", other.type_name())),
        })
    }

    /// All that a loop over it meets.
    pub(super) fn iterate(&self, budget: &Budget) -> Outcome<Vec<Value>> {
        let pay = |count: usize| budget.make(count * size_of::<Value>());
        Ok(match self {
            Self::Undefined(_) => Vec::new(),
            Self::Text(text) => {
                pay(text.len())?;
                text.chars().map(|c| Self::text(c.encode_utf8(&mut [0; 4]))).collect()
            }
            Self::List(list) | Self::Tuple(list) => {
                pay(list.entries.len())?;
                list.entries.clone()
            }
            Self::Dict(dict) | Self::View(View::Keys, dict) => {
                pay(dict.len())?;
                dict.entries().map(|(key, _)| key.clone()).collect()
            }
            Self::View(View::Values, dict) => {
                pay(dict.len())?;
                dict.entries().map(|(_, value)| value.clone()).collect()
            }
            Self::View(View::Items, dict) => {
                let pair = |(key, value): &(Value, Value)| Self::tuple(vec![key.clone(), value.clone()], budget);
                dict.entries().map(pair).collect::<Outcome<_>>()?
            }
            Self::Range(range) => {
                pay(range.len())?;
                (0..range.len()).filter_map(|index| range.get(index)).collect()
            }
            Self::Generator(generator) => {
                pay(generator.entries.borrow().len())?;
                generator.entries.borrow_mut().drain(..).collect()
            }
            other => return fail(format!("TypeError: '{}' object is not iterable", other.type_name())),
        })
    }
}
