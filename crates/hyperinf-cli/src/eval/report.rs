//! The result of an evaluation as JSON, CSV, text and a picture.

use std::io::{Result as Io, Write};
use std::iter::{once, repeat};
use std::path::Path;

use hyperinf::eval::{Evaluation, Row};
use hyperinf::scoring::EstimateKind;
use hyperinf::store::{Column, OutputFolder, Staged, Table, cell, publish, stage_csv, stage_json};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::candidate::{LABEL_SEED, draws};
use crate::args::{CandidateArgs, ResultArgs};
use crate::config;
use crate::error::CliError;
use crate::figure::{Bar, Bars, stage_bars};
use crate::grid::{Align, Grid};
use crate::to_stdout;

const FILES: [&str; 2] = ["methods.csv", "summary.json"];
const PICTURE: &str = "methods.png";
/// All output files, the summary last.
pub(super) const OUTPUTS: [&str; 4] = [FILES[0], PICTURE, config::FILE, FILES[1]];

/// The output folder, checked to be writable before anything is computed.
pub(super) fn folder(args: &ResultArgs, truth: &str) -> Result<OutputFolder, CliError> {
    Ok(OutputFolder::of_command("eval", &args.folder(truth), &OUTPUTS, &[])?)
}

/// A result and what the program knows about it.
pub(super) struct Report<'a> {
    pub(super) found: &'a Evaluation,
    /// The device's name.
    pub(super) device: &'a str,
    pub(super) judged: &'a CandidateArgs,
}

#[derive(Serialize)]
struct Summary<'a> {
    command: &'static str,
    hyperinf_version: &'static str,
    truth: &'static str,
    figure: &'static str,
    sign: &'static str,
    task: &'a str,
    training_images: usize,
    queries: usize,
    models: usize,
    device: &'a str,
    precision: &'static str,
    damping_kind: &'static str,
    draws: usize,
    label_seed: u64,
    #[serde(flatten)]
    details: &'a Map<String, Value>,
    methods: Vec<Value>,
    seconds: f64,
}

impl Report<'_> {
    /// Writes the files and prints the table, or the summary.
    pub(super) fn write(&self, folder: &OutputFolder, args: &ResultArgs) -> Result<(), CliError> {
        let summary = self.summary();
        let cells = self.cells();
        let [csv, json] = FILES.map(|name| folder.file(name));
        let column = |place: usize| Column::Text(cells.iter().map(|row| row[place].as_str()).collect());
        let names = self.names();
        let columns = names.iter().enumerate().map(|(place, name)| (name.as_str(), column(place)));
        let csv = stage_csv(&csv, &Table::new(columns.collect()))?;
        let config = folder.file(config::FILE);
        let config = config::stage(&config)?;
        let json = stage_json(&json, &summary)?;
        let picture = folder.file(PICTURE);
        let picture = self.picture(&picture)?;
        let stale = picture.is_none().then(|| folder.file(PICTURE));
        let results: Vec<Staged<'_>> = std::iter::once(csv).chain(picture).chain([config, json]).collect();
        publish(results, stale.as_slice())?;
        to_stdout(|out| {
            if args.json {
                serde_json::to_writer_pretty(&mut *out, &summary)?;
                return writeln!(out);
            }
            self.text(&args.folder(self.found.truth), out)
        })
    }

    /// The first figure of each method with its interval, if the figures have one.
    fn picture<'a>(&self, path: &'a Path) -> Result<Option<Staged<'a>>, CliError> {
        let bar = |row: &Row| {
            let of = |name: &str| row.figures.iter().find(|figure| figure.name == name)?.value;
            let damping = row.damping.map_or_else(String::new, |d| format!("  λ {d}"));
            let value = row.figures.first()?.value?;
            Some(Bar { name: format!("{}{damping}", row.method), value, interval: (of("low")?, of("high")?) })
        };
        let bars: Vec<Bar> = self.found.rows.iter().filter_map(bar).collect();
        if bars.is_empty() {
            return Ok(None);
        }
        let figure = self.found.rows[0].figures[0].name.as_str();
        let title = format!(
            "hyperinf eval {}: {figure}, mean over {} queries, 95 % interval",
            self.found.truth, self.found.findings.queries
        );
        stage_bars(path, &Bars { title: &title, bars: &bars }).map(Some)
    }

    fn summary(&self) -> Summary<'_> {
        let method = |row: &Row| {
            let mut entry =
                Map::from_iter([("method".to_owned(), json!(row.method)), ("damping".to_owned(), json!(row.damping))]);
            entry.insert("estimate".to_owned(), json!(row.estimate.map(EstimateKind::name)));
            entry.extend(row.figures.iter().map(|figure| (figure.name.clone(), json!(figure.value))));
            entry.extend([
                ("seconds".to_owned(), json!(row.seconds)),
                ("residual".to_owned(), json!(row.residual)),
                ("converged".to_owned(), json!(row.converged)),
            ]);
            Value::Object(entry)
        };
        let Evaluation { truth, figure, damping_kind, precision, findings, rows, seconds } = self.found;
        Summary {
            command: "eval",
            hyperinf_version: env!("CARGO_PKG_VERSION"),
            truth,
            figure,
            sign: "positive = helpful",
            task: &findings.task,
            training_images: findings.samples,
            queries: findings.queries,
            models: self.judged.models,
            device: self.device,
            precision,
            damping_kind,
            draws: draws(self.judged),
            label_seed: LABEL_SEED,
            details: &findings.details,
            methods: rows.iter().map(method).collect(),
            seconds: *seconds,
        }
    }

    fn names(&self) -> Vec<String> {
        let figures =
            self.found.rows.first().into_iter().flat_map(|row| row.figures.iter().map(|figure| figure.name.as_str()));
        let names = ["method", "damping"].into_iter().chain(figures).chain(["seconds", "residual", "converged"]);
        names.map(str::to_owned).collect()
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let rows = self.found.rows.iter().map(|row| {
            let mut cells = vec![row.method.clone(), cell(row.damping)];
            cells.extend(row.figures.iter().map(|figure| cell(figure.value)));
            cells.extend([cell(row.seconds), cell(row.residual), row.converged.to_string()]);
            cells
        });
        rows.collect()
    }

    fn text(&self, out_folder: &Path, out: &mut dyn Write) -> Io<()> {
        writeln!(out, "{}\n{}\n", self.found.findings.about, self.found.findings.task)?;
        let names = self.names();
        let shown = names[..names.len() - 1].iter().map(String::as_str);
        let mut table = Grid::new(shown.zip(once(Align::Left).chain(repeat(Align::Right))));
        for row in &self.found.rows {
            let mut cells = vec![row.method.clone(), row.damping.map_or("–".into(), |d| d.to_string())];
            cells.extend(row.figures.iter().map(|figure| figure.value.map_or("–".into(), |v| format!("{v:.3}"))));
            let seconds = row.seconds.map_or("–".into(), |s| format!("{s:.2}"));
            let star = if row.converged { "" } else { "*" };
            let residual = row.residual.map_or("–".into(), |r| format!("{r:.1e}{star}"));
            cells.extend([seconds, residual]);
            table.row(cells);
        }
        table.write(out)?;
        if self.found.rows.iter().any(|row| !row.converged) {
            writeln!(out, "* the solver stopped before reaching its tolerance")?;
        }
        writeln!(out, "\nAll figures: {} in {}", FILES.join(" and "), out_folder.display())
    }
}
