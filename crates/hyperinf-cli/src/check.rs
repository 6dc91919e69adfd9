//! `hyperinf check`: rows as a model gets them.

use std::io::{self, IsTerminal, Write, stdout};

use hyperinf::data::{Check, Checked, CheckedRow, Finding, Outcome};

use crate::args::CheckArgs;
use crate::device::open_device;
use crate::error::{CliError, Input};
use crate::grid::{Align, Grid};
use crate::progress::observer;
use crate::to_stdout;

/// What stands around tokens that are part of the loss; on a terminal they are green as well.
const MARKS: [&str; 2] = ["⟦", "⟧"];
const COLOURS: [&str; 2] = ["\x1b[32m", "\x1b[0m"];

/// Prints the tokens of the first rows as text, with marks around those that are part of the loss, and a table of what
/// was checked.
///
/// # Errors
///
/// If a file cannot be read, a row cannot be used, or a check failed.
pub(crate) fn run(args: &CheckArgs) -> Result<(), CliError> {
    let check = Check {
        model: args.model.model.clone(),
        tokenizer: args.model.tokenizer.clone(),
        adapter: args.adapter.clone(),
        data: args.data.clone(),
        read: (&args.columns).into(),
        length: args.length.into(),
        rows: args.rows,
        gradients: args.gradients,
    };
    let device = args.adapter.as_ref().map(|_| open_device(&args.device)).transpose()?;
    let found = check.run(device.as_ref().map(|(_, device)| device), &mut observer())?;
    let colours = if stdout().is_terminal() { COLOURS } else { [""; 2] };
    to_stdout(|out| {
        found.shown.iter().try_for_each(|row| print(out, row, found.is_scored(), colours))?;
        table(out, &found.findings)?;
        summary(out, &found)
    })?;
    let failed: Vec<&str> =
        found.findings.iter().filter(|finding| finding.outcome == Outcome::Fail).map(|finding| finding.name).collect();
    match failed.len() {
        0 => Ok(()),
        _ => Err(Input::Checks { failed: failed.join(", ") }.into()),
    }
}

fn table(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    let columns = [("check", Align::Left), ("", Align::Left), ("found", Align::Text), ("what to do", Align::Text)];
    let mut table = Grid::new(columns);
    for Finding { name, outcome, found, advice } in findings {
        let outcome = match outcome {
            Outcome::Pass => "pass",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        table.row(vec![(*name).to_owned(), outcome.to_owned(), visible(found), (*advice).to_owned()]);
    }
    table.write(out)?;
    writeln!(out)
}

fn print(out: &mut dyn Write, row: &CheckedRow, scored: bool, colours: [&str; 2]) -> io::Result<()> {
    write!(out, "row {}", row.row)?;
    if let Some(line) = row.line {
        write!(out, " (line {line})")?;
    }
    write!(out, ": {} tokens", row.tokens)?;
    if scored {
        let scored: usize = row.pieces.iter().filter(|piece| piece.scored).map(|piece| piece.tokens).sum();
        write!(out, ", {scored} of them scored")?;
    }
    if row.cut > 0 {
        write!(out, ", {} more cut off", row.cut)?;
    }
    if let Some(label) = &row.label {
        write!(out, ", label {}", visible(label))?;
    }
    writeln!(out)?;
    for piece in &row.pieces {
        let text = visible(&piece.text);
        if piece.scored {
            write!(out, "{}{}{text}{}{}", colours[0], MARKS[0], MARKS[1], colours[1])?;
        } else {
            write!(out, "{text}")?;
        }
    }
    writeln!(out, "\n")
}

fn summary(out: &mut dyn Write, found: &Checked) -> io::Result<()> {
    write!(out, "{} rows, {} tokens", found.rows, found.tokens)?;
    if found.is_scored() {
        let share = 100.0 * found.scored as f64 / found.tokens.max(1) as f64;
        write!(out, ", {} of them scored ({share:.1} %)", found.scored)?;
    }
    writeln!(out)
}

/// A text of strangers: line ends stay, other control characters are spelled out.
fn visible(text: &str) -> String {
    let spell = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(spell).collect()
}
