//! Chat templates: Jinja as `transformers` renders it.
//!
//! A template is a program in a file of somebody else. It is parsed by minijinja's parser, and run by an interpreter
//! with Python's types and methods: its text is the text that `transformers` makes, or an error. Every rendering has a
//! budget of steps, bytes and depth, so that no template takes long or much memory.

mod access;
mod budget;
mod calls;
mod checks;
mod date;
mod error;
mod evaluate;
mod filters;
mod filters_list;
mod format;
mod lower;
mod machine;
mod marks;
mod methods;
mod operators;
mod repr;
mod symbols;
mod syntax;
mod text;
mod value;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::thread;
use std::time::SystemTime;

use minijinja::machinery;
use minijinja::syntax::SyntaxConfig;

use crate::Json;
use budget::Budget;
use calls::GLOBALS;
use date::Date;
pub use error::TemplateError;
use lower::Lowering;
use machine::{Machine, Output, Scope};
use symbols::Symbols;
use syntax::Statement;
use value::Value;

/// The longest template in bytes.
const LONGEST: usize = 1 << 18;
/// The parser calls itself for every sign and word of an expression: this is enough for the longest template.
const PARSER_STACK: usize = 1 << 29;
/// Enough for [`budget::RUN_DEPTH`].
const STACK: usize = 1 << 27;

/// A template that was read.
#[derive(Debug)]
pub(crate) struct Template {
    body: Vec<Statement>,
    today: Date,
    /// Whether it marks what the assistant writes.
    pub(crate) has_marks: bool,
    /// The variables that it reads and has not set by then, in alphabetical order.
    pub(crate) variables: BTreeSet<String>,
}

/// The text of a conversation, and where the template marks what the assistant writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    pub(crate) marks: Vec<Range<usize>>,
}

impl Template {
    /// Parses a template.
    pub(crate) fn parse(source: &str) -> Result<Self, TemplateError> {
        if source.len() > LONGEST {
            return Err(TemplateError::Limit { line: 1, limit: LONGEST as u64, what: "bytes of a template" });
        }
        on_stack(PARSER_STACK, || Self::parse_here(source))
    }

    fn parse_here(source: &str) -> Result<Self, TemplateError> {
        // As Jinja reads files.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let Some((source, marks)) = marks::as_calls(&source) else {
            let reason = "the tags `generation` and `endgeneration` are not in pairs".to_owned();
            return Err(TemplateError::Syntax { line: 1, reason });
        };
        let config = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let refused = |error: minijinja::Error| {
            let line = error.line().unwrap_or(1);
            let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            TemplateError::Syntax { line, reason }
        };
        let tree = machinery::parse(&source, "template", config.map_err(refused)?).map_err(refused)?;
        let mut body = Lowering::new(&source).template(&tree)?;
        let mut symbols = Symbols::default();
        symbols.block(&[], &[], &mut body);
        let mut variables = symbols.given;
        variables.retain(|name| !GLOBALS.contains(&name.as_str()));
        Ok(Self { body, today: Date::of(SystemTime::now()), has_marks: marks > 0, variables })
    }

    /// The text for these variables.
    pub(crate) fn render(&self, variables: &[(&str, &Json)]) -> Result<Rendered, TemplateError> {
        on_stack(STACK, || self.render_here(variables))
    }

    fn render_here(&self, variables: &[(&str, &Json)]) -> Result<Rendered, TemplateError> {
        let input = variables.iter().map(|(_, value)| size(value)).sum();
        let budget = Budget::new(input);
        let globals = variables.iter().map(|&(name, value)| Ok((name.to_owned(), Value::of_json(value, &budget)?)));
        let globals: Result<HashMap<String, Value>, error::Fail> = globals.collect();
        let globals = globals.map_err(|fail| fail.at(1))?;
        let machine = Machine::new(budget, globals, self.today);
        let mut out = Output { text: String::new(), marks: Some(Vec::new()) };
        let root = Scope::new(None);
        machine.run(&self.body, &root, &mut out).map_err(|fail| fail.at(machine.line.get()))?;
        Ok(Rendered { text: out.text, marks: out.marks.unwrap_or_default() })
    }
}

/// A value as Python's `repr` writes it, unless it is too large.
pub(crate) fn python_repr(value: &Json) -> Option<String> {
    let budget = Budget::new(size(value));
    Value::of_json(value, &budget).and_then(|value| repr::to_repr(&value, &budget)).ok()
}

/// Runs something on a stack of its own; a panic is an error.
fn on_stack<T: Send>(bytes: usize, run: impl FnOnce() -> Result<T, TemplateError> + Send) -> Result<T, TemplateError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(bytes).spawn_scoped(scope, run);
        thread.map_err(|_| TemplateError::Thread)?.join().unwrap_or(Err(TemplateError::Thread))
    })
}

/// The bytes of a value, roughly.
fn size(value: &Json) -> usize {
    match value {
        Json::String(text) => 32 + text.len(),
        Json::Array(entries) => 32 + entries.iter().map(size).sum::<usize>(),
        Json::Object(pairs) => 32 + pairs.iter().map(|(key, value)| key.len() + size(value)).sum::<usize>(),
        _ => 32,
    }
}
