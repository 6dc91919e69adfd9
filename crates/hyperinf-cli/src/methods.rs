//! `hyperinf methods`: the table of named methods.

use std::io::{self, Write};

use hyperinf::data::{Baseline, RowMethod, Trajectory};
use hyperinf::scoring::{MethodInfo, methods};
use serde::Serialize;

use crate::args::MethodsArgs;
use crate::error::CliError;
use crate::grid::{Align, Grid};
use crate::to_stdout;

/// Below the table: the grammar of a method.
const GRAMMAR: &str = "\
A method is NAME[:SIDE][:SCALE][:merged][/SOLVER][@ESTIMATE], such as
hyperinf:cols:merged@gauss-newton
  SIDE      short, rows or cols: the side that is summed over
            (hyperinf, hyperinf-authors)
  SCALE     mean or sum (hyperinf)
  merged    one matrix over all blocks
  SOLVER    another solver than the method's own
  ESTIMATE  empirical, sampled or gauss-newton: the curvature, for commands
            that have the model";

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
    /// Other names that are understood.
    aliases: &'static [&'static str],
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
        let &MethodInfo { name, aliases, summary, cost, source, .. } = method;
        Self { name, aliases, summary, cost, source, choices: choices(method), needs_captures: method.needs_captures() }
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
    let columns = ["method", "score = ⟨x, g⟩ with x from", "cost (n samples, block of D = r·d)", "source"];
    let mut table = Grid::new(columns.into_iter().zip([Align::Left, Align::Text, Align::Text, Align::Text]));
    for method in methods() {
        let also = method.aliases.iter().map(|name| format!("; also called {name}")).collect::<String>();
        let summary = format!("{}{also}", method.summary);
        table.row(vec![method.name.into(), summary, method.cost.into(), method.source.into()]);
    }
    table.write(out)?;
    writeln!(out, "\n{GRAMMAR}\n\nBaselines without gradients, for attribute, detect and select (all: baselines)")?;
    Baseline::NAMES.iter().try_for_each(|(name, baseline)| writeln!(out, "  {name:<14}{}", baseline.summary()))?;
    writeln!(out, "\nOf an adapter of finetune --record, for the same commands (all: recorded)")?;
    writeln!(out, "  {:<14}{}", RowMethod::UNROLLED, RowMethod::Unrolled.summary())?;
    Trajectory::NAMES.iter().try_for_each(|(name, trajectory)| writeln!(out, "  {name:<14}{}", trajectory.summary()))
}
