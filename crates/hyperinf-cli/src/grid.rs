//! Tables for people, no wider than the terminal.

use std::env;
use std::io::{Result, Write};
use std::iter::once;

/// The width where there is no terminal: what is piped or redirected is the same everywhere.
const PLAIN: usize = 80;
/// The least width of a column whose text is broken.
const LEAST: usize = 14;
/// Spaces between columns.
const GAP: usize = 2;

/// The columns of the terminal on standard output; elsewhere `COLUMNS`, or 80.
pub(crate) fn width() -> usize {
    let terminal = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
    let asked = || env::var("COLUMNS").ok()?.parse().ok();
    terminal.or_else(asked).filter(|&width| width > 0).unwrap_or(PLAIN)
}

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Names, at the left.
    Left,
    /// Numbers, at the right.
    Right,
    /// Sentences, broken between words where the table is too wide.
    Text,
}

/// A table. One that is too wide continues below itself: the columns that do not fit follow the first column again.
pub(crate) struct Grid {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// With these columns; a heading may have several lines.
    pub(crate) fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Self {
        Self { columns: columns.into_iter().map(|(head, set)| (head.into(), set)).collect(), rows: Vec::new() }
    }

    /// Adds a row of one cell per column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "one cell per column");
        self.rows.push(cells);
    }

    /// Writes it to fit the terminal.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<()> {
        self.write_in(width(), out)
    }

    fn write_in(&self, width: usize, out: &mut dyn Write) -> Result<()> {
        let widths = self.widths(width);
        let mut begin = 1;
        loop {
            let (mut end, mut used) = (begin, widths[0]);
            while end < widths.len() && (end == begin || used + GAP + widths[end] <= width) {
                used += GAP + widths[end];
                end += 1;
            }
            let columns: Vec<usize> = once(0).chain(begin..end).collect();
            self.part(&columns, &widths, out)?;
            if end >= widths.len() {
                return Ok(());
            }
            writeln!(out)?;
            begin = end;
        }
    }

    /// The width of each column: of its longest line, or less where text can be broken.
    fn widths(&self, width: usize) -> Vec<usize> {
        let longest = |place: usize| {
            let cells = once(&self.columns[place].0).chain(self.rows.iter().map(|row| &row[place]));
            cells.flat_map(|cell| cell.lines()).map(|line| line.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.columns.len()).map(longest).collect();
        let excess = |widths: &[usize]| (widths.iter().sum::<usize>() + GAP * (widths.len() - 1)).saturating_sub(width);
        while excess(&widths) > 0 {
            let texts =
                (0..widths.len()).filter(|&place| self.columns[place].1 == Align::Text && widths[place] > LEAST);
            let Some(widest) = texts.max_by_key(|&place| widths[place]) else { break };
            widths[widest] -= 1;
        }
        widths
    }

    fn part(&self, columns: &[usize], widths: &[usize], out: &mut dyn Write) -> Result<()> {
        let heads: Vec<&str> = self.columns.iter().map(|(head, _)| head.as_str()).collect();
        self.lines(&heads, columns, widths, true, out)?;
        self.rows.iter().try_for_each(|row| {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            self.lines(&cells, columns, widths, false, out)
        })
    }

    /// The lines of one row; those of a heading stand at the bottom.
    fn lines(&self, row: &[&str], columns: &[usize], widths: &[usize], head: bool, out: &mut dyn Write) -> Result<()> {
        let cells: Vec<Vec<String>> = columns.iter().map(|&place| broken(row[place], widths[place])).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..height {
            let mut text = String::new();
            for (&place, lines) in columns.iter().zip(&cells) {
                let above = if head { height - lines.len() } else { 0 };
                let cell = line.checked_sub(above).and_then(|line| lines.get(line)).map_or("", String::as_str);
                let (set, width) = (self.columns[place].1, widths[place]);
                let gap = if place == columns[0] { 0 } else { GAP };
                // Not by a format: the width of one is at most 65,535.
                let rest = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (left, right) = if set == Align::Right { (&*rest, "") } else { ("", &*rest) };
                text.extend([&" ".repeat(gap), left, cell, right]);
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// The text in lines of at most `width` characters, broken between words where that is possible.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for given in text.lines() {
        lines.push(String::new());
        for word in given.split_inclusive(' ') {
            let line = lines.last_mut().expect("a line was begun");
            if line.is_empty() || line.chars().count() + word.trim_end().chars().count() <= width {
                line.push_str(word);
            } else {
                lines.push(word.to_owned());
            }
        }
    }
    lines.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    lines
}
