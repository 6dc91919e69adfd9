//! Runs a template: statements, scopes and loops.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::budget::Budget;
use super::calls::{Arguments, GLOBALS};
use super::date::Date;
use super::error::{Outcome, fail};
use super::filters;
use super::operators::{equal, undefined_used};
use super::repr::to_text;
use super::syntax::{For, Kind, Macro, Name, Statement, Target};
use super::value::Value;

/// One rendering.
pub(super) struct Machine {
    pub(super) budget: Budget,
    pub(super) globals: HashMap<String, Value>,
    pub(super) today: Date,
    /// The line of the statement that runs.
    pub(super) line: Cell<usize>,
    /// The scopes that macros refer to: they are emptied at the end, because a scope and its macros hold each other.
    closures: RefCell<Vec<Rc<Scope>>>,
}

/// Variables, and those around them.
pub(super) struct Scope {
    names: RefCell<HashMap<Name, Value>>,
    parent: Option<Rc<Scope>>,
}

/// A macro and the scope that it sees.
pub(super) struct MacroValue {
    pub(super) definition: Arc<Macro>,
    pub(super) scope: Rc<Scope>,
}

/// The variable `loop`.
pub(super) struct LoopState {
    pub(super) entries: Vec<Value>,
    pub(super) index: Cell<usize>,
    pub(super) depth: usize,
    pub(super) depth_of_values: u32,
    pub(super) changed: RefCell<Option<Vec<Value>>>,
    /// What `loop(…)` of a recursive loop runs again.
    pub(super) again: Option<(Arc<For>, Rc<Scope>)>,
}

/// The text so far.
#[derive(Default)]
pub(super) struct Output {
    pub(super) text: String,
    /// The places of `{% generation %}` blocks; `None` inside of something whose text is written later.
    pub(super) marks: Option<Vec<Range<usize>>>,
}

pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl Scope {
    pub(super) fn new(parent: Option<&Rc<Scope>>) -> Rc<Self> {
        Rc::new(Self { names: RefCell::default(), parent: parent.cloned() })
    }

    pub(super) fn set(&self, name: &Name, value: Value) {
        self.names.borrow_mut().insert(name.clone(), value);
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            if let Some(value) = scope.names.borrow().get(name) {
                return Some(value.clone());
            }
            scope = scope.parent.as_deref()?;
        }
    }
}

impl LoopState {
    pub(super) fn attribute(&self, name: &str) -> Outcome<Option<Value>> {
        let (at, length) = (self.index.get(), self.entries.len());
        let number = |value: usize| Some(Value::Int(value as i128));
        let entry = |index: Option<usize>, missing: &str| {
            Some(
                index
                    .and_then(|index| self.entries.get(index).cloned())
                    .unwrap_or_else(|| Value::Undefined(missing.into())),
            )
        };
        Ok(match name {
            "index" => number(at + 1),
            "index0" => number(at),
            "revindex" => number(length - at),
            "revindex0" => number(length - at - 1),
            "first" => Some(Value::Bool(at == 0)),
            "last" => Some(Value::Bool(at + 1 == length)),
            "length" => number(length),
            "depth" => number(self.depth + 1),
            "depth0" => number(self.depth),
            "previtem" => entry(at.checked_sub(1), "there is no previous item"),
            "nextitem" => entry(Some(at + 1), "there is no next item"),
            "cycle" | "changed" => None,
            _ if name.starts_with('_') => return fail("SecurityError: access to an attribute of a loop is unsafe"),
            _ => None,
        })
    }

    pub(super) fn changed(&self, values: Vec<Value>, budget: &Budget) -> Outcome<bool> {
        let mut last = self.changed.borrow_mut();
        if let Some(last) = &*last
            && last.len() == values.len()
        {
            let mut same = true;
            for (a, b) in last.iter().zip(&values) {
                same = same && equal(a, b, budget)?;
            }
            if same {
                return Ok(false);
            }
        }
        *last = Some(values);
        Ok(true)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for scope in self.closures.borrow().iter() {
            scope.names.borrow_mut().clear();
        }
    }
}

impl Machine {
    pub(super) fn new(budget: Budget, globals: HashMap<String, Value>, today: Date) -> Self {
        Self { budget, globals, today, line: Cell::new(1), closures: RefCell::default() }
    }

    pub(super) fn lookup(&self, name: &str, scope: &Scope) -> Value {
        let global = || self.globals.get(name).cloned();
        let function = || GLOBALS.iter().find(|known| **known == name).map(|known| Value::Function(known));
        let missing = || Value::Undefined(format!("'{name}' is undefined").into());
        scope.get(name).or_else(global).or_else(function).unwrap_or_else(missing)
    }

    pub(super) fn close_over(&self, definition: &Arc<Macro>, scope: &Rc<Scope>) -> Value {
        self.closures.borrow_mut().push(scope.clone());
        Value::Macro(Rc::new(MacroValue { definition: definition.clone(), scope: scope.clone() }))
    }

    /// Runs statements, and writes their text.
    pub(super) fn run(&self, body: &[Statement], scope: &Rc<Scope>, out: &mut Output) -> Outcome<Flow> {
        for statement in body {
            self.line.set(statement.line);
            let flow = self.budget.deeper(|| self.statement(&statement.kind, scope, out))?;
            if !matches!(flow, Flow::Next) {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// The text of statements that write into a value.
    pub(super) fn capture(&self, body: &[Statement], scope: &Rc<Scope>) -> Outcome<String> {
        let mut out = Output::default();
        self.run(body, scope, &mut out)?;
        Ok(out.text)
    }

    fn write(&self, text: &str, out: &mut Output) -> Outcome<Flow> {
        self.budget.make(text.len())?;
        out.text.push_str(text);
        Ok(Flow::Next)
    }

    fn statement(&self, kind: &Kind, scope: &Rc<Scope>, out: &mut Output) -> Outcome<Flow> {
        match kind {
            Kind::Text(text) => self.write(text, out),
            Kind::Print(expr) => {
                let text = to_text(&self.evaluate(expr, scope)?, &self.budget)?;
                self.write(&text, out)
            }
            Kind::If { test, then, otherwise, .. } => {
                let body = if self.evaluate(test, scope)?.truth() { then } else { otherwise };
                self.run(body, scope, out)
            }
            Kind::For(definition) => {
                let iterable = self.evaluate(&definition.iterable, scope)?;
                self.repeat(definition, &iterable, 0, scope, out)
            }
            Kind::With(assignments, body) => {
                let inner = Scope::new(Some(scope));
                for (target, expr) in assignments {
                    self.assign(target, self.evaluate(expr, scope)?, &inner)?;
                }
                self.run(body, &inner, out)
            }
            Kind::Set(target, expr) => {
                self.assign(target, self.evaluate(expr, scope)?, scope)?;
                Ok(Flow::Next)
            }
            Kind::SetBlock(target, filter, body) => {
                let text = Value::text(&self.capture(body, &Scope::new(Some(scope)))?);
                let value = match filter {
                    Some(filter) => self.filter_chain(filter, &text, scope)?,
                    None => text,
                };
                self.assign(target, value, scope)?;
                Ok(Flow::Next)
            }
            Kind::Filter(filter, body) => {
                let text = Value::text(&self.capture(body, &Scope::new(Some(scope)))?);
                let text = to_text(&self.filter_chain(filter, &text, scope)?, &self.budget)?;
                self.write(&text, out)
            }
            Kind::Macro(definition) => {
                scope.set(&definition.name, self.close_over(definition, scope));
                Ok(Flow::Next)
            }
            Kind::Call(function, arguments, body) => {
                let caller = self.close_over(body, scope);
                let mut arguments = self.arguments(arguments, scope)?;
                arguments.named.push(("caller".into(), caller));
                let function = self.callee(function, scope)?;
                let text = to_text(&self.call(&function, arguments)?, &self.budget)?;
                self.write(&text, out)
            }
            Kind::Generation(body) => {
                // As a call block: its variables are its own.
                let text = self.capture(body, &Scope::new(Some(scope)))?;
                let Some(marks) = &mut out.marks else {
                    return fail(
                        "`generation` inside of a macro, a call, a filter or a `set` block has no place in the text",
                    );
                };
                marks.push(out.text.len()..out.text.len() + text.len());
                self.write(&text, out)
            }
            Kind::Hide(names) => {
                self.budget.steps(names.len() as u64)?;
                let given = |name: &&Name| self.globals.contains_key(&***name) || GLOBALS.contains(&&***name);
                for name in names.iter().filter(given) {
                    scope.set(name, Value::Undefined(format!("'{name}' is undefined").into()));
                }
                Ok(Flow::Next)
            }
            Kind::Break => Ok(Flow::Break),
            Kind::Continue => Ok(Flow::Continue),
        }
    }

    fn filter_chain(&self, filter: &super::syntax::Expr, text: &Value, scope: &Rc<Scope>) -> Outcome<Value> {
        let super::syntax::Expr::Filter(name, input, arguments) = filter else {
            return fail("expected a filter");
        };
        let input = match input {
            Some(inner) => self.filter_chain(inner, text, scope)?,
            None => text.clone(),
        };
        filters::apply(self, name, &input, self.arguments(arguments, scope)?)
    }

    /// Runs a loop over a value.
    pub(super) fn repeat(
        &self,
        definition: &Arc<For>,
        iterable: &Value,
        depth: usize,
        scope: &Rc<Scope>,
        out: &mut Output,
    ) -> Outcome<Flow> {
        let mut entries = iterable.iterate(&self.budget)?;
        if let Some(condition) = &definition.condition {
            let mut kept = Vec::new();
            for entry in entries {
                let inner = Scope::new(Some(scope));
                self.assign(&definition.target, entry.clone(), &inner)?;
                if self.evaluate(condition, &inner)?.truth() {
                    kept.push(entry);
                }
            }
            entries = kept;
        }
        let count = entries.len();
        let depth_of_values = 1 + entries.iter().map(Value::depth).max().unwrap_or(0);
        let again = definition.recursive.then(|| (definition.clone(), scope.clone()));
        let state =
            LoopState { entries, index: Cell::new(0), depth, depth_of_values, changed: RefCell::new(None), again };
        let state = Rc::new(state);
        let name: Name = "loop".into();
        // Jinja runs `else` unless an iteration came to its end: after a `break` in the first one as well.
        let mut completed = false;
        for index in 0..count {
            state.index.set(index);
            let inner = Scope::new(Some(scope));
            inner.set(&name, Value::Loop(state.clone()));
            self.assign(&definition.target, state.entries[index].clone(), &inner)?;
            match self.run(&definition.body, &inner, out)? {
                Flow::Break => break,
                Flow::Continue => {}
                Flow::Next => completed = true,
            }
            self.budget.steps(1)?;
        }
        if completed { Ok(Flow::Next) } else { self.run(&definition.otherwise, &Scope::new(Some(scope)), out) }
    }

    pub(super) fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Outcome<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(name, attribute) => match self.lookup(name, scope) {
                Value::Namespace(namespace) => {
                    if attribute.starts_with('_') {
                        return fail(format!("SecurityError: a namespace has no attribute `{attribute}`"));
                    }
                    namespace.borrow_mut().insert(Value::text(attribute), value)?;
                }
                other @ Value::Undefined(_) => return undefined_used(&other),
                _ => return fail("TemplateRuntimeError: cannot assign attribute on non-namespace object"),
            },
            Target::Several(targets) => {
                let values = value.iterate(&self.budget)?;
                if values.len() != targets.len() {
                    let (expected, found) = (targets.len(), values.len());
                    return fail(format!("ValueError: expected {expected} values to unpack, found {found}"));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
        }
        Ok(())
    }

    /// Calls a macro.
    pub(super) fn call_macro(&self, called: &MacroValue, mut arguments: Arguments) -> Outcome<Value> {
        let definition = &*called.definition;
        let scope = Scope::new(Some(&called.scope));
        let [varargs, kwargs, caller] = definition.special;
        let name = &definition.name;
        let required = definition.parameters.len() - definition.defaults.len();
        let mut positional = std::mem::take(&mut arguments.positional).into_iter();
        for (at, parameter) in definition.parameters.iter().enumerate() {
            let named = arguments.take(parameter);
            let value = match (positional.next(), named) {
                (Some(_), Some(_)) => {
                    return fail(format!("TypeError: macro '{name}' got multiple values for argument '{parameter}'"));
                }
                (Some(value), None) | (None, Some(value)) => value,
                (None, None) => match at.checked_sub(required).and_then(|at| definition.defaults.get(at)) {
                    Some(default) => self.evaluate(default, &scope)?,
                    None => Value::Undefined(format!("parameter '{parameter}' was not provided").into()),
                },
            };
            scope.set(parameter, value);
        }
        let rest: Vec<Value> = positional.collect();
        if varargs {
            scope.set(&"varargs".into(), Value::tuple(rest, &self.budget)?);
        } else if !rest.is_empty() {
            return fail(format!(
                "TypeError: macro '{name}' takes not more than {} argument(s)",
                definition.parameters.len()
            ));
        }
        if caller {
            let missing = || Value::Undefined("No caller defined".into());
            scope.set(&"caller".into(), arguments.take("caller").unwrap_or_else(missing));
        }
        if kwargs {
            let named =
                std::mem::take(&mut arguments.named).into_iter().map(|(name, value)| (Value::text(&name), value));
            scope.set(&"kwargs".into(), Value::dict(named, &self.budget)?);
        } else if let Some((unknown, _)) = arguments.named.first() {
            return fail(format!("TypeError: macro '{name}' takes no keyword argument '{unknown}'"));
        }
        let text = self.budget.deeper(|| self.capture(&definition.body, &scope))?;
        Ok(Value::text(&text))
    }
}
