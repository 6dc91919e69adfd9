//! Which variables a block sees. Jinja binds names when it reads a template: a name that a block sets is that block's
//! in all of it and in all blocks inside, from the beginning. Before it is set it is undefined, whatever the
//! conversation has under this name, unless the block reads it first or sets it in some branches only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::syntax::{Argument, Expr, Kind, Macro, Name, SPECIAL, Statement, Target};

/// What a name is at the beginning of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// A variable of the conversation, or a function.
    Given,
    Undefined,
    /// What it is in the block around.
    Outer,
    Parameter,
}

/// The names of a block, or of one branch of an `if` in it.
#[derive(Default)]
struct Layer {
    branch: bool,
    names: HashMap<Name, Start>,
    stored: HashSet<Name>,
}

/// Finds the names of every block, as `jinja2.idtracking` does.
#[derive(Default)]
pub(super) struct Symbols {
    layers: Vec<Layer>,
    /// The names that are read and that no block sets before.
    pub(super) given: BTreeSet<String>,
}

impl Symbols {
    /// Puts a [`Kind::Hide`] at the beginning of every block that has undefined names.
    pub(super) fn block(&mut self, parameters: &[Name], defaults: &[Expr], body: &mut Vec<Statement>) {
        self.layers.push(Layer::default());
        parameters.iter().for_each(|name| self.declare(name));
        defaults.iter().for_each(|default| self.expr(default));
        body.iter().for_each(|statement| self.statement(&statement.kind));
        let names = self.layers.last().into_iter().flat_map(|layer| &layer.names);
        let mut hidden: Vec<Name> =
            names.filter(|(_, start)| **start == Start::Undefined).map(|(name, _)| name.clone()).collect();
        hidden.sort();
        self.inner(body);
        self.layers.pop();
        if let Some(first) = body.first().filter(|_| !hidden.is_empty()) {
            body.insert(0, Statement { line: first.line, kind: Kind::Hide(hidden) });
        }
    }

    /// The blocks inside of statements.
    fn inner(&mut self, body: &mut [Statement]) {
        for statement in body {
            match &mut statement.kind {
                Kind::If { then, otherwise, .. } => {
                    self.inner(then);
                    self.inner(otherwise);
                }
                Kind::For(definition) => {
                    let Some(definition) = Arc::get_mut(definition) else { continue };
                    let mut parameters = vec!["loop".into()];
                    names_of(&definition.target, &mut parameters);
                    self.block(&parameters, &[], &mut definition.body);
                    self.block(&parameters[1..], definition.condition.as_slice(), &mut Vec::new());
                    self.block(&[], &[], &mut definition.otherwise);
                }
                Kind::With(assignments, body) => {
                    let mut parameters = Vec::new();
                    assignments.iter().for_each(|(target, _)| names_of(target, &mut parameters));
                    self.block(&parameters, &[], body);
                }
                Kind::SetBlock(_, filter, body) => {
                    self.block(&[], &[], body);
                    self.block(&[], filter.as_slice(), &mut Vec::new());
                }
                Kind::Filter(_, body) | Kind::Generation(body) => self.block(&[], &[], body),
                Kind::Macro(definition) | Kind::Call(_, _, definition) => {
                    let Some(definition) = Arc::get_mut(definition) else { continue };
                    let Macro { parameters, defaults, body, .. } = definition;
                    let special = SPECIAL.iter().map(|&name| Name::from(name));
                    let parameters: Vec<Name> = parameters.iter().cloned().chain(special).collect();
                    self.block(&parameters, defaults, body);
                }
                Kind::Text(_) | Kind::Print(_) | Kind::Set(..) | Kind::Hide(_) | Kind::Break | Kind::Continue => {}
            }
        }
    }

    /// What a statement does in its own block.
    fn statement(&mut self, kind: &Kind) {
        match kind {
            Kind::Print(expr) | Kind::Filter(expr, _) => self.expr(expr),
            Kind::Set(target, expr) => {
                self.expr(expr);
                self.target(target);
            }
            Kind::SetBlock(target, ..) => self.target(target),
            Kind::If { test, then, otherwise, .. } => self.condition(test, then, otherwise),
            Kind::For(definition) => self.expr(&definition.iterable),
            Kind::With(assignments, _) => assignments.iter().for_each(|(_, expr)| self.expr(expr)),
            Kind::Macro(definition) => self.store(&definition.name),
            Kind::Call(function, arguments, _) => {
                self.expr(function);
                self.arguments(arguments);
            }
            Kind::Text(_) | Kind::Generation(_) | Kind::Hide(_) | Kind::Break | Kind::Continue => {}
        }
    }

    fn condition(&mut self, test: &Expr, then: &[Statement], mut otherwise: &[Statement]) {
        self.expr(test);
        let first = self.branch(|this| then.iter().for_each(|statement| this.statement(&statement.kind)));
        // All `elif` together are one branch of Jinja's.
        let second = self.branch(|this| {
            while let [Statement { kind: Kind::If { test, then, otherwise: rest, elif: true }, .. }] = otherwise {
                this.condition(test, then, &[]);
                otherwise = rest;
            }
        });
        let third = self.branch(|this| otherwise.iter().for_each(|statement| this.statement(&statement.kind)));
        let branches = [first, second, third];
        let mut counts: HashMap<&Name, usize> = HashMap::new();
        for name in branches.iter().flat_map(|branch| &branch.stored).filter(|name| !self.stored(name)) {
            *counts.entry(name).or_default() += 1;
        }
        let partly: Vec<Name> =
            counts.into_iter().filter(|(_, count)| *count < branches.len()).map(|(name, _)| name.clone()).collect();
        if let Some(layer) = self.layers.last_mut() {
            for branch in branches {
                layer.names.extend(branch.names);
                layer.stored.extend(branch.stored);
            }
        }
        for name in partly {
            let start = if self.outer(&name) { Start::Outer } else { Start::Given };
            self.define(&name, start);
        }
    }

    fn branch(&mut self, visit: impl FnOnce(&mut Self)) -> Layer {
        self.layers.push(Layer { branch: true, ..Layer::default() });
        visit(self);
        self.layers.pop().unwrap_or_default()
    }

    /// The layers of the block itself, from its branches outwards.
    fn own(&self) -> impl Iterator<Item = &Layer> {
        let start = self.layers.iter().rposition(|layer| !layer.branch).unwrap_or(0);
        self.layers[start..].iter().rev()
    }

    fn outer(&self, name: &Name) -> bool {
        let start = self.layers.iter().rposition(|layer| !layer.branch).unwrap_or(0);
        self.layers[..start].iter().rev().any(|layer| layer.names.contains_key(name))
    }

    fn stored(&self, name: &Name) -> bool {
        self.own().any(|layer| layer.stored.contains(name))
    }

    fn define(&mut self, name: &Name, start: Start) {
        self.layers.last_mut().map(|layer| layer.names.insert(name.clone(), start));
    }

    fn declare(&mut self, name: &Name) {
        self.define(name, Start::Parameter);
        self.layers.last_mut().map(|layer| layer.stored.insert(name.clone()));
    }

    fn store(&mut self, name: &Name) {
        self.layers.last_mut().map(|layer| layer.stored.insert(name.clone()));
        if !self.own().any(|layer| layer.names.contains_key(name)) {
            let start = if self.outer(name) { Start::Outer } else { Start::Undefined };
            self.define(name, start);
        }
    }

    fn load(&mut self, name: &Name) {
        if !self.layers.iter().rev().any(|layer| layer.names.contains_key(name)) {
            self.define(name, Start::Given);
            self.given.insert(name.to_string());
        }
    }

    fn target(&mut self, target: &Target) {
        match target {
            Target::Name(name) => self.store(name),
            Target::Attribute(name, _) => self.load(name),
            Target::Several(targets) => targets.iter().for_each(|target| self.target(target)),
        }
    }

    fn arguments(&mut self, arguments: &[Argument]) {
        for argument in arguments {
            match argument {
                Argument::Positional(expr)
                | Argument::Named(_, expr)
                | Argument::Splat(expr)
                | Argument::NamedSplat(expr) => self.expr(expr),
            }
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Literal(_) => {}
            Expr::Name(name) => self.load(name),
            Expr::List(entries) | Expr::Tuple(entries) => entries.iter().for_each(|entry| self.expr(entry)),
            Expr::Dict(pairs) => pairs.iter().for_each(|(key, value)| {
                self.expr(key);
                self.expr(value);
            }),
            Expr::Attribute(value, _) | Expr::Not(value) | Expr::Negative(value) => self.expr(value),
            Expr::Item(value, key) => {
                self.expr(value);
                self.expr(key);
            }
            Expr::Slice(value, bounds) => {
                self.expr(value);
                bounds.iter().flatten().for_each(|bound| self.expr(bound));
            }
            Expr::Binary(_, sides) => {
                self.expr(&sides.0);
                self.expr(&sides.1);
            }
            Expr::Compare(first, rest) => {
                self.expr(first);
                rest.iter().for_each(|(_, right)| self.expr(right));
            }
            Expr::Conditional(sides, otherwise) => {
                self.expr(&sides.0);
                self.expr(&sides.1);
                otherwise.iter().for_each(|otherwise| self.expr(otherwise));
            }
            Expr::Filter(_, input, arguments) => {
                input.iter().for_each(|input| self.expr(input));
                self.arguments(arguments);
            }
            Expr::Test(_, input, arguments) => {
                self.expr(input);
                self.arguments(arguments);
            }
            Expr::Call(function, arguments) => {
                self.expr(function);
                self.arguments(arguments);
            }
        }
    }
}

fn names_of(target: &Target, names: &mut Vec<Name>) {
    match target {
        Target::Name(name) => names.push(name.clone()),
        Target::Attribute(..) => {}
        Target::Several(targets) => targets.iter().for_each(|target| names_of(target, names)),
    }
}
