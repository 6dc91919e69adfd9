//! `hyperinf methods`: the table of named methods.

use std::io::{self, Write};

use hyperinf::scoring::{MethodInfo, methods};
use serde::Serialize;

use crate::args::MethodsArgs;
use crate::error::CliError;
use crate::to_stdout;

/// The widths of the columns, two spaces between them: 118 in all.
const WIDTHS: [usize; 4] = [16, 40, 30, 26];
/// Below the table: the grammar of a method.
const GRAMMAR: &str = "\
A method is NAME[:SIDE][:SCALE][:merged][/SOLVER][@ESTIMATE], such as hyperinf:cols:merged@gauss-newton
  SIDE      short, rows or cols: the side that is summed over (hyperinf, hyperinf-authors)
  SCALE     mean or sum (hyperinf)
  merged    one matrix over all blocks
  SOLVER    another solver than the method's own
  ESTIMATE  empirical, sampled or gauss-newton: the curvature, for commands that have the model";

/// Prints every method.
///
/// # Errors
///
/// If standard output cannot be written.
pub(crate) fn run(args: &MethodsArgs) -> Result<(), CliError> {
    to_stdout(|out| match args {
        MethodsArgs { json: true, .. } => json(out),
        MethodsArgs { markdown: true, .. } => markdown(out),
        MethodsArgs { .. } => table(out),
    })
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    summary: &'static str,
    cost: &'static str,
    source: &'static str,
    /// The choices that it has, as words of the grammar.
    choices: Vec<&'static str>,
    /// Whether it needs activations, and so the model.
    needs_captures: bool,
}

impl From<&MethodInfo> for Entry {
    fn from(method: &MethodInfo) -> Self {
        let &MethodInfo { name, summary, cost, source, .. } = method;
        Self { name, summary, cost, source, choices: choices(method), needs_captures: method.needs_captures() }
    }
}

fn choices(method: &MethodInfo) -> Vec<&'static str> {
    let curvature = method.has_curvature();
    let all = [
        (":SIDE", method.has_side()),
        (":SCALE", method.has_scale()),
        (":merged", curvature && !method.needs_captures()),
        ("/SOLVER", curvature),
        ("@ESTIMATE", curvature),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(word, _)| word).collect()
}

fn json(out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &methods().iter().map(Entry::from).collect::<Vec<_>>())?;
    writeln!(out)
}

fn markdown(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "| method | summary | cost | choices | source |\n|---|---|---|---|---|")?;
    for method in methods() {
        let choices: Vec<String> = choices(method).iter().map(|choice| format!("`{choice}`")).collect();
        let &MethodInfo { name, summary, cost, source, .. } = method;
        writeln!(out, "| `{name}` | {summary} | {cost} | {} | {source} |", choices.join(" "))?;
    }
    Ok(())
}

fn table(out: &mut dyn Write) -> io::Result<()> {
    row(out, ["method", "score = ⟨x, g⟩ with x from", "cost (n samples, block of D = r·d)", "source"])?;
    writeln!(out, "{}", WIDTHS.map(|width| "─".repeat(width)).join("  "))?;
    for method in methods() {
        row(out, [method.name, method.summary, method.cost, method.source])?;
    }
    writeln!(out, "\n{GRAMMAR}")
}

fn row(out: &mut dyn Write, cells: [&str; 4]) -> io::Result<()> {
    let cells: Vec<Vec<String>> = cells.iter().zip(WIDTHS).map(|(text, width)| wrap(text, width)).collect();
    for line in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
        let parts = cells.iter().zip(WIDTHS).map(|(lines, width)| {
            let text = lines.get(line).map_or("", String::as_str);
            format!("{text:<width$}")
        });
        writeln!(out, "{}", parts.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// The text in lines of at most `width` characters, broken between words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
