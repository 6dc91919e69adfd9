//! `hyperinf methods`.

use std::io::{self, Write};

use hyperinf::scoring::{MethodInfo, methods};
use serde::Serialize;

use crate::args::MethodsArgs;
use crate::error::CliError;
use crate::to_stdout;

/// The widths of the columns, two spaces between them: 118 in all.
const WIDTHS: [usize; 4] = [16, 40, 30, 26];

/// Prints every method.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn run(args: &MethodsArgs) -> Result<(), CliError> {
    to_stdout(|out| if args.json { json(out) } else { table(out) })
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    summary: &'static str,
    cost: &'static str,
    source: &'static str,
}

fn json(out: &mut dyn Write) -> io::Result<()> {
    let entries =
        methods().iter().map(|&MethodInfo { name, summary, cost, source, .. }| Entry { name, summary, cost, source });
    serde_json::to_writer_pretty(&mut *out, &entries.collect::<Vec<_>>())?;
    writeln!(out)
}

fn table(out: &mut dyn Write) -> io::Result<()> {
    row(out, ["method", "score = ⟨x, g⟩ with x from", "cost (n samples, block of D = r·d)", "source"])?;
    writeln!(out, "{}", WIDTHS.map(|width| "─".repeat(width)).join("  "))?;
    for method in methods() {
        row(out, [method.name, method.summary, method.cost, method.source])?;
    }
    Ok(())
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
