//! The values of expressions.

use std::rc::Rc;

use super::access::{attribute, item, slice};
use super::calls::Arguments;
use super::checks;
use super::error::{Outcome, fail};
use super::filters;
use super::machine::{Machine, Scope};
use super::operators::{binary, compare, negative};
use super::syntax::{Argument, Binary, Expr};
use super::value::Value;

impl Machine {
    pub(super) fn evaluate(&self, expr: &Expr, scope: &Rc<Scope>) -> Outcome<Value> {
        self.budget.deeper(|| self.evaluate_one(expr, scope))
    }

    fn evaluate_all(&self, exprs: &[Expr], scope: &Rc<Scope>) -> Outcome<Vec<Value>> {
        exprs.iter().map(|expr| self.evaluate(expr, scope)).collect()
    }

    fn evaluate_one(&self, expr: &Expr, scope: &Rc<Scope>) -> Outcome<Value> {
        let budget = &self.budget;
        match expr {
            Expr::Literal(literal) => Ok(literal.into()),
            Expr::Name(name) => Ok(self.lookup(name, scope)),
            Expr::List(entries) => Value::list(self.evaluate_all(entries, scope)?, budget),
            Expr::Tuple(entries) => Value::tuple(self.evaluate_all(entries, scope)?, budget),
            Expr::Dict(pairs) => {
                let pairs =
                    pairs.iter().map(|(key, value)| Ok((self.evaluate(key, scope)?, self.evaluate(value, scope)?)));
                Value::dict(pairs.collect::<Outcome<Vec<_>>>()?, budget)
            }
            Expr::Attribute(value, name) => attribute(&self.evaluate(value, scope)?, name),
            Expr::Item(value, key) => item(&self.evaluate(value, scope)?, &self.evaluate(key, scope)?),
            Expr::Slice(value, bounds) => {
                let value = self.evaluate(value, scope)?;
                let mut found = [None, None, None];
                for (found, bound) in found.iter_mut().zip(bounds.iter()) {
                    *found = bound.as_ref().map(|bound| self.evaluate(bound, scope)).transpose()?;
                }
                slice(&value, &found, budget)
            }
            Expr::Not(value) => Ok(Value::Bool(!self.evaluate(value, scope)?.truth())),
            Expr::Negative(value) => negative(&self.evaluate(value, scope)?),
            Expr::Binary(op @ (Binary::And | Binary::Or), sides) => {
                let left = self.evaluate(&sides.0, scope)?;
                let decided = left.truth() == matches!(op, Binary::Or);
                if decided { Ok(left) } else { self.evaluate(&sides.1, scope) }
            }
            Expr::Binary(op, sides) => {
                binary(*op, &self.evaluate(&sides.0, scope)?, &self.evaluate(&sides.1, scope)?, budget)
            }
            Expr::Compare(first, rest) => {
                let mut left = self.evaluate(first, scope)?;
                for (op, right) in rest {
                    let right = self.evaluate(right, scope)?;
                    if !compare(*op, &left, &right, budget)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::Conditional(sides, otherwise) => match (self.evaluate(&sides.0, scope)?.truth(), otherwise) {
                (true, _) => self.evaluate(&sides.1, scope),
                (false, Some(otherwise)) => self.evaluate(otherwise, scope),
                (false, None) => {
                    Ok(Value::Undefined("the inline if-expression evaluated to false and has no else".into()))
                }
            },
            Expr::Filter(name, input, arguments) => {
                let Some(input) = input else {
                    return fail("a filter without an input");
                };
                let input = self.evaluate(input, scope)?;
                filters::apply(self, name, &input, self.arguments(arguments, scope)?)
            }
            Expr::Test(name, input, arguments) => {
                let input = self.evaluate(input, scope)?;
                checks::apply(self, name, &input, &self.arguments(arguments, scope)?).map(Value::Bool)
            }
            Expr::Call(function, arguments) => {
                let function = self.callee(function, scope)?;
                let arguments = self.arguments(arguments, scope)?;
                self.call(&function, arguments)
            }
        }
    }

    /// The function of a call. Methods of loops are found here only.
    pub(super) fn callee(&self, expr: &Expr, scope: &Rc<Scope>) -> Outcome<Value> {
        if let Expr::Attribute(value, name) = expr
            && matches!(&**name, "cycle" | "changed")
        {
            let value = self.evaluate(value, scope)?;
            return match value {
                Value::Loop(_) => Ok(Value::Method(Rc::new((value, name.as_ref().into())))),
                value => attribute(&value, name),
            };
        }
        self.evaluate(expr, scope)
    }

    pub(super) fn arguments(&self, arguments: &[Argument], scope: &Rc<Scope>) -> Outcome<Arguments> {
        let mut found = Arguments::default();
        for argument in arguments {
            // Names are compared with all before.
            self.budget.steps(found.named.len() as u64)?;
            match argument {
                Argument::Positional(expr) => found.positional.push(self.evaluate(expr, scope)?),
                Argument::Named(name, expr) => found.add_named(name, self.evaluate(expr, scope)?)?,
                Argument::Splat(expr) => found.positional.extend(self.evaluate(expr, scope)?.iterate(&self.budget)?),
                Argument::NamedSplat(expr) => match self.evaluate(expr, scope)? {
                    Value::Dict(dict) => {
                        for (key, value) in dict.entries() {
                            self.budget.steps(found.named.len() as u64)?;
                            let Some(name) = key.as_text() else {
                                return fail("TypeError: keywords must be strings");
                            };
                            found.add_named(name, value.clone())?;
                        }
                    }
                    other => return fail(format!("TypeError: {} is not a mapping", other.type_name())),
                },
            }
        }
        Ok(found)
    }
}
