//! What an evaluation found, as JSON, CSV and text.

use std::fs;
use std::io::{ErrorKind, Result as Io, Write};
use std::path::Path;
use std::time::Instant;

use hyperinf::eval::Retrain;
use hyperinf::eval::digits::DigitsTask;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::candidate::{Candidate, LABEL_SEED, draws};
use super::setup::{Models, Scored};
use crate::args::{JudgedArgs, ResultArgs};
use crate::error::CliError;
use crate::figure::{Bar, Bars, stage_bars};
use crate::progress::Progress;
use crate::to_stdout;
use hyperinf::store::{Column, OutputFolder, Staged, StoreError, Table, cell, stage_csv, stage_json};

const FILES: [&str; 2] = ["methods.csv", "summary.json"];
const PICTURE: &str = "methods.png";
/// Every file that is written.
pub(super) const OUTPUTS: [&str; 3] = [FILES[0], FILES[1], PICTURE];

/// A number under a name.
pub(crate) type Figure = (String, Option<f64>);

/// A method with what was found about it: the same figures for all methods.
pub(crate) struct Row {
    pub(crate) method: String,
    pub(crate) damping: Option<f64>,
    /// Of the curvature, if there is one.
    pub(crate) estimate: Option<&'static str>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) seconds: Option<f64>,
    pub(crate) residual: Option<f64>,
    pub(crate) converged: bool,
}

impl Row {
    /// What is no method.
    pub(crate) fn baseline(name: &str, figures: Vec<Figure>) -> Self {
        Self {
            method: name.to_owned(),
            damping: None,
            estimate: None,
            figures,
            seconds: None,
            residual: None,
            converged: true,
        }
    }
}

/// The folder of results, found writable before anything is computed.
pub(crate) fn folder(args: &ResultArgs, truth: &str) -> Result<OutputFolder, CliError> {
    Ok(OutputFolder::new(&args.folder(truth), &OUTPUTS, &[])?)
}

/// Takes an earlier picture away, which would not belong to this result.
fn remove(path: &Path) -> Result<(), CliError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::output(path, error).into()),
        _ => Ok(()),
    }
}

/// Scores with every method and judges each.
pub(crate) fn judged(
    candidates: &[Candidate],
    models: &Models,
    mut judge: impl FnMut(&Scored) -> Result<Vec<Figure>, CliError>,
) -> Result<Vec<Row>, CliError> {
    let mut progress = Progress::new("methods", candidates.len() as u64);
    let mut rows = Vec::new();
    for (place, candidate) in candidates.iter().enumerate() {
        progress.at(place as u64, || candidate.name.clone());
        let scored = models.score(candidate)?;
        rows.push(row(candidate, &scored, judge(&scored)?));
    }
    progress.finish();
    Ok(rows)
}

pub(crate) fn row(candidate: &Candidate, scored: &Scored, figures: Vec<Figure>) -> Row {
    Row {
        method: candidate.name.clone(),
        damping: candidate.damping,
        estimate: candidate.estimate(),
        figures,
        seconds: Some(scored.seconds),
        residual: scored.residual,
        converged: scored.converged,
    }
}

/// Everything that is told.
pub(crate) struct Report<'a> {
    /// The name of the truth.
    pub(crate) truth: &'static str,
    /// What the figures are, their unit, and which of them are good.
    pub(crate) figure: &'static str,
    /// What was done, in a sentence.
    pub(crate) about: String,
    pub(crate) task: &'a DigitsTask,
    /// The device and the precision.
    pub(crate) place: (&'a str, &'static str),
    pub(crate) judged: &'a JudgedArgs,
    /// Settings and findings that belong to no method.
    pub(crate) more: Map<String, Value>,
    pub(crate) rows: Vec<Row>,
    pub(crate) began: Instant,
}

#[derive(Serialize)]
struct Summary {
    hyperinf_version: &'static str,
    truth: &'static str,
    figure: &'static str,
    /// Of the scores.
    sign: &'static str,
    task: String,
    training_images: usize,
    queries: usize,
    /// Whose scores are averaged.
    models: usize,
    device: String,
    precision: &'static str,
    damping_kind: &'static str,
    draws: usize,
    label_seed: u64,
    #[serde(flatten)]
    more: Map<String, Value>,
    methods: Vec<Value>,
    seconds: f64,
}

impl Report<'_> {
    /// Writes the files and prints the table, or the summary.
    pub(crate) fn write(&self, folder: &OutputFolder, args: &ResultArgs) -> Result<(), CliError> {
        let summary = self.summary();
        let cells = self.cells();
        let [csv, told] = FILES.map(|name| folder.file(name));
        let column = |place: usize| Column::Text(cells.iter().map(|row| row[place].as_str()).collect());
        let names = self.names();
        let columns = names.iter().enumerate().map(|(place, name)| (name.as_str(), column(place)));
        let csv = stage_csv(&csv, &Table::new(columns.collect()))?;
        let told = stage_json(&told, &summary)?;
        let picture = folder.file(PICTURE);
        let picture = self.picture(&picture)?;
        csv.place()?;
        told.place()?;
        match picture {
            Some(picture) => picture.place()?,
            None => remove(&folder.file(PICTURE))?,
        }
        to_stdout(|out| {
            if args.json {
                serde_json::to_writer_pretty(&mut *out, &summary)?;
                return writeln!(out);
            }
            self.text(&args.folder(self.truth), out)
        })
    }

    /// The first figure of each method with its interval, if the figures have one.
    fn picture<'a>(&self, path: &'a Path) -> Result<Option<Staged<'a>>, CliError> {
        let bar = |row: &Row| {
            let of = |name: &str| row.figures.iter().find(|(figure, _)| figure == name).and_then(|(_, value)| *value);
            let damping = row.damping.map_or_else(String::new, |d| format!("  λ {d}"));
            let value = row.figures.first()?.1?;
            Some(Bar { name: format!("{}{damping}", row.method), value, interval: (of("low")?, of("high")?) })
        };
        let bars: Vec<Bar> = self.rows.iter().filter_map(bar).collect();
        if bars.is_empty() {
            return Ok(None);
        }
        let figure = self.rows[0].figures[0].0.as_str();
        let title = format!(
            "hyperinf eval {}: {figure}, mean over {} queries, 95 % interval",
            self.truth,
            self.task.queries.len()
        );
        stage_bars(path, &Bars { title: &title, bars: &bars }).map(Some)
    }

    fn summary(&self) -> Summary {
        let method = |row: &Row| {
            let mut entry =
                Map::from_iter([("method".to_owned(), json!(row.method)), ("damping".to_owned(), json!(row.damping))]);
            entry.insert("estimate".to_owned(), json!(row.estimate));
            entry.extend(row.figures.iter().map(|(name, value)| (name.clone(), json!(value))));
            entry.extend([
                ("seconds".to_owned(), json!(row.seconds)),
                ("residual".to_owned(), json!(row.residual)),
                ("converged".to_owned(), json!(row.converged)),
            ]);
            Value::Object(entry)
        };
        Summary {
            hyperinf_version: env!("CARGO_PKG_VERSION"),
            truth: self.truth,
            figure: self.figure,
            sign: "positive = helpful",
            task: self.task.fingerprint(),
            training_images: self.task.train.len(),
            queries: self.task.queries.len(),
            models: self.judged.models,
            device: self.place.0.to_owned(),
            precision: self.place.1,
            damping_kind: match self.truth {
                "pbrf" => "absolute: factor × mean square of all gradients' entries, the same for all blocks",
                _ => "relative: factor × mean square of the entries of each block's gradients",
            },
            draws: draws(self.judged),
            label_seed: LABEL_SEED,
            more: self.more.clone(),
            methods: self.rows.iter().map(method).collect(),
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }

    fn names(&self) -> Vec<String> {
        let figures = self.rows.first().into_iter().flat_map(|row| row.figures.iter().map(|(name, _)| name.as_str()));
        let names = ["method", "damping"].into_iter().chain(figures).chain(["seconds", "residual", "converged"]);
        names.map(str::to_owned).collect()
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let rows = self.rows.iter().map(|row| {
            let mut cells = vec![row.method.clone(), cell(row.damping)];
            cells.extend(row.figures.iter().map(|(_, value)| cell(*value)));
            cells.extend([cell(row.seconds), cell(row.residual), row.converged.to_string()]);
            cells
        });
        rows.collect()
    }

    fn text(&self, out_folder: &Path, out: &mut dyn Write) -> Io<()> {
        writeln!(out, "{}\n{}\n", self.about, self.task.fingerprint())?;
        let names = self.names();
        let width = self.rows.iter().map(|row| row.method.chars().count()).max().unwrap_or(0).max(6);
        write!(out, "{:<width$}  {:>7}", "method", "damping")?;
        let shown = |name: &str| name.chars().count().max(7);
        let figures = &names[2..names.len() - 3];
        for name in figures {
            write!(out, "  {name:>w$}", w = shown(name))?;
        }
        writeln!(out, "  {:>7}  {:>8}", "seconds", "residual")?;
        for row in &self.rows {
            write!(out, "{:<width$}  {:>7}", row.method, row.damping.map_or("–".into(), |d| d.to_string()))?;
            for (name, value) in &row.figures {
                let text = value.map_or("–".into(), |v| format!("{v:.3}"));
                write!(out, "  {text:>w$}", w = shown(name))?;
            }
            let seconds = row.seconds.map_or("–".into(), |s| format!("{s:.2}"));
            let star = if row.converged { "" } else { "*" };
            let residual = row.residual.map_or("–".into(), |r| format!("{r:.1e}{star}"));
            writeln!(out, "  {seconds:>7}  {residual:>8}")?;
        }
        if self.rows.iter().any(|row| !row.converged) {
            writeln!(out, "* the solver stopped before it reached its tolerance")?;
        }
        writeln!(out, "\nEvery figure: {} in {}", FILES.join(" and "), out_folder.display())
    }
}
