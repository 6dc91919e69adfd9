//! Calls: functions of the environment, macros and methods.

use std::cell::RefCell;
use std::rc::Rc;

use super::error::{Fail, Outcome, fail};
use super::machine::{Machine, Output};
use super::methods;
use super::operators::undefined_used;
use super::repr::to_text;
use super::syntax::Name;
use super::value::{Range, Value};

/// The functions of the environment, of Jinja and of transformers.
pub(super) const GLOBALS: [&str; 9] =
    ["range", "dict", "namespace", "cycler", "joiner", "lipsum", "raise_exception", "strftime_now", "self"];

/// Jinja's sandbox refuses longer ranges.
const LONGEST_RANGE: usize = 100_000;

/// The arguments of a call.
#[derive(Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Name, Value)>,
}

impl Arguments {
    pub(super) fn add_named(&mut self, name: &str, value: Value) -> Outcome<()> {
        if self.named.iter().any(|(known, _)| **known == *name) {
            return fail(format!("TypeError: got multiple values for keyword argument '{name}'"));
        }
        self.named.push((name.into(), value));
        Ok(())
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.named.iter().position(|(known, _)| **known == *name)?;
        Some(self.named.remove(at).1)
    }

    /// The arguments for these parameters, the first `required` of which must be there. A parameter whose name begins
    /// with `/` has a place only.
    pub(super) fn bind<const N: usize>(
        mut self,
        function: &str,
        required: usize,
        parameters: [&str; N],
    ) -> Outcome<[Option<Value>; N]> {
        let given = self.positional.len();
        if given > N {
            return fail(format!("TypeError: {function}() takes at most {N} arguments ({given} given)"));
        }
        let mut positional = std::mem::take(&mut self.positional).into_iter();
        let mut found = [const { None }; N];
        for (at, (found, name)) in found.iter_mut().zip(parameters).enumerate() {
            *found = match (positional.next(), self.take(name)) {
                (Some(_), Some(_)) => {
                    return fail(format!("TypeError: {function}() got multiple values for argument '{name}'"));
                }
                (value, named) => value.or(named),
            };
            if found.is_none() && at < required {
                return fail(format!("TypeError: {function}() missing a required argument: '{name}'"));
            }
        }
        match self.named.first() {
            Some((name, _)) => fail(format!("TypeError: {function}() got an unexpected keyword argument '{name}'")),
            None => Ok(found),
        }
    }

    /// No arguments.
    pub(super) fn none(self, function: &str) -> Outcome<()> {
        self.bind(function, 0, []).map(|[]| ())
    }
}

impl Machine {
    pub(super) fn call(&self, function: &Value, arguments: Arguments) -> Outcome<Value> {
        match function {
            Value::Macro(called) => self.call_macro(called, arguments),
            Value::Function(name) => self.call_global(name, arguments),
            Value::Method(method) => match &method.0 {
                Value::Loop(state) => match (&*method.1, arguments) {
                    (_, arguments) if !arguments.named.is_empty() => fail("TypeError: unexpected keyword argument"),
                    ("changed", arguments) => state.changed(arguments.positional, &self.budget).map(Value::Bool),
                    (_, arguments) if arguments.positional.is_empty() => fail("TypeError: no items for cycling given"),
                    (_, arguments) => {
                        let at = state.index.get() % arguments.positional.len();
                        Ok(arguments.positional[at].clone())
                    }
                },
                value => methods::call(self, value, &method.1, arguments),
            },
            Value::Loop(state) => {
                let [iterable] = arguments.bind("loop", 1, ["iterable"])?;
                let Some((definition, scope)) = &state.again else {
                    return fail("TypeError: The loop must have the 'recursive' marker to be called recursively.");
                };
                let iterable = iterable.unwrap_or(Value::None);
                let mut out = Output::default();
                self.budget.deeper(|| self.repeat(definition, &iterable, state.depth + 1, scope, &mut out))?;
                Ok(Value::text(&out.text))
            }
            Value::Joiner(joiner) => {
                arguments.none("joiner")?;
                let used = joiner.1.replace(true);
                Ok(Value::Text(if used { joiner.0.clone() } else { "".into() }))
            }
            Value::Undefined(_) => undefined_used(function),
            other => fail(format!("TypeError: '{}' object is not callable", other.type_name())),
        }
    }

    fn call_global(&self, name: &str, mut arguments: Arguments) -> Outcome<Value> {
        let budget = &self.budget;
        match name {
            "range" => range(arguments),
            "dict" | "namespace" => {
                let named = std::mem::take(&mut arguments.named);
                let [first] = arguments.bind(name, 0, ["/mapping"])?;
                let mut pairs: Vec<(Value, Value)> = match first {
                    None => Vec::new(),
                    Some(Value::Dict(dict)) => dict.entries().cloned().collect(),
                    Some(pairs) => {
                        let pair = |pair: Value| match <[Value; 2]>::try_from(pair.iterate(budget)?) {
                            Ok([key, value]) => Ok((key, value)),
                            Err(_) => fail("ValueError: dictionary update sequence element is not a pair"),
                        };
                        pairs.iterate(budget)?.into_iter().map(pair).collect::<Outcome<_>>()?
                    }
                };
                pairs.extend(named.into_iter().map(|(name, value)| (Value::text(&name), value)));
                let hidden = |(key, _): &(Value, Value)| key.as_text().is_some_and(|key| key.starts_with('_'));
                if name == "namespace" && pairs.iter().any(hidden) {
                    return fail("SecurityError: a namespace has no attributes that begin with an underscore");
                }
                match Value::dict(pairs, budget)? {
                    Value::Dict(dict) if name == "namespace" => {
                        Ok(Value::Namespace(Rc::new(RefCell::new((*dict).clone()))))
                    }
                    dict => Ok(dict),
                }
            }
            "cycler" if arguments.named.is_empty() && !arguments.positional.is_empty() => {
                Value::cycler(arguments.positional)
            }
            "joiner" => {
                let [separator] = arguments.bind(name, 0, ["sep"])?;
                let separator = separator.unwrap_or_else(|| Value::text(", "));
                Ok(Value::Joiner(Rc::new((to_text(&separator, budget)?.into(), RefCell::new(false)))))
            }
            "raise_exception" => {
                let [message] = arguments.bind(name, 1, ["message"])?;
                Err(Fail::Raised(to_text(&message.unwrap_or(Value::None), budget)?))
            }
            "strftime_now" => match &arguments.bind(name, 1, ["format"])? {
                [Some(Value::Text(format))] => {
                    budget.make_times(format.len(), 8)?;
                    Ok(Value::text(&self.today.format(format)?))
                }
                _ => fail("TypeError: strftime_now() takes a text"),
            },
            other => fail(format!("a call of `{other}` like this is not supported")),
        }
    }
}

fn range(arguments: Arguments) -> Outcome<Value> {
    if !arguments.named.is_empty() {
        return fail("TypeError: range() takes no keyword arguments");
    }
    let mut numbers = Vec::new();
    for value in &arguments.positional {
        match value.as_int().map(i64::try_from) {
            Some(Ok(number)) => numbers.push(number),
            Some(Err(_)) => return fail("OverflowError: the range is too long"),
            None if matches!(value, Value::Undefined(_)) => return undefined_used(value),
            None => {
                let kind = value.type_name();
                return fail(format!("TypeError: '{kind}' object cannot be interpreted as an integer"));
            }
        }
    }
    let range = match *numbers {
        [stop] => Range { start: 0, stop, step: 1 },
        [start, stop] => Range { start, stop, step: 1 },
        [_, _, 0] => return fail("ValueError: range() arg 3 must not be zero"),
        [start, stop, step] => Range { start, stop, step },
        _ => return fail("TypeError: range expected 1 to 3 arguments"),
    };
    if range.len() > LONGEST_RANGE {
        return Err(Fail::Limit { limit: LONGEST_RANGE as u64, what: "numbers in a range" });
    }
    Ok(Value::Range(range))
}
