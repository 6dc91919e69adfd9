//! The result of `hyperinf eval adapter brittleness` and `selection` as CSV, JSON, a picture, a page and text.

use std::io::{Result as Io, Write};

use hyperinf::data::{Choosing, Effect, Effects, Retraining};
use hyperinf::eval::Interval;
use hyperinf::scoring::Amount;
use hyperinf::store::{Cells, OutputFolder, Staged, WriteError, cell, publish, stage_csv, stage_json};
use hyperinf_report::{Comparison, Fact};
use serde_json::{Map, Value, json};

use super::adapter_report::{failure, inputs};
use crate::args::AdapterCommand;
use crate::config;
use crate::error::CliError;
use crate::figure::{Bar, Bars, bars, bytes_of};
use crate::grid::{Align, Grid};
use crate::to_stdout;

const FILES: [&str; 5] = ["methods.csv", "changes.csv", "costs.csv", "changes.png", "report.html"];
/// All output files, the summary last.
pub(super) const OUTPUTS: [&str; 7] = [FILES[0], FILES[1], FILES[2], FILES[3], FILES[4], config::FILE, "summary.json"];
const FIGURE: &str = "change of the queries' losses in nats against trainings on all rows, mean over queries; after \
                      the most helpful rows have left higher = better, after a selection lower = better";

/// A result and what the program knows about it.
pub(super) struct Report<'a> {
    pub(super) truth: &'a AdapterCommand,
    pub(super) choosing: Choosing,
    pub(super) retraining: &'a Retraining,
    pub(super) found: &'a Effects,
    pub(super) device: &'a str,
}

impl Report<'_> {
    /// Writes the files and prints the table, or the summary.
    pub(super) fn write(&self, folder: &OutputFolder, about: &str) -> Result<(), CliError> {
        let paths = OUTPUTS.map(|name| folder.file(name));
        let [methods, changes, costs, png, page, config_file, json] = &paths;
        let list = self.sorted();
        let (summary, picture) = (self.summary(&list), picture(&list, self.truth.name())?);
        let bytes = |path, bytes: &Vec<u8>| Staged::new(path, |file| file.write_all(bytes).map_err(WriteError::Io));
        let rows = list.iter().map(|(effect, interval)| {
            let ends = interval.map_or((None, None), |at| (at.low, at.high));
            vec![
                effect.run.name.clone(),
                cell(interval.map(|at| at.mean)),
                cell(ends.0),
                cell(ends.1),
                cell(effect.run.residual),
                effect.run.converged.to_string(),
                failure(&effect.run).unwrap_or_default(),
            ]
        });
        let of_costs = list.iter().map(|(effect, interval)| {
            let run = &effect.run;
            let change = cell(interval.map(|at| at.mean));
            vec![run.name.clone(), change, format!("{:.3}", run.seconds), run.bytes.to_string()]
        });
        let staged = vec![
            stage_csv(methods, &Cells::new(&COLUMNS, rows.collect()).table())?,
            stage_csv(changes, &Cells::new(&["method", "query_id", "change"], self.changes(&list)).table())?,
            stage_csv(costs, &Cells::new(&["method", "change", "seconds", "bytes"], of_costs.collect()).table())?,
            bytes(png, &picture)?,
            self.page(about, &list, &picture).stage(page)?,
            config::stage(config_file)?,
            stage_json(json, &summary)?,
        ];
        publish(staged, &[])?;
        to_stdout(|out| {
            if self.truth.shared().json {
                serde_json::to_writer_pretty(&mut *out, &summary)?;
                return writeln!(out);
            }
            self.text(about, &list, out)
        })
    }

    /// The best first; those without a result last.
    fn sorted(&self) -> Vec<(&Effect, Option<Interval>)> {
        let of = |effect: &Effect| effect.changes.as_deref().and_then(Interval::of);
        let mut all: Vec<(&Effect, Option<Interval>)> =
            self.found.methods.iter().map(|effect| (effect, of(effect))).collect();
        let sign = if matches!(self.choosing, Choosing::MostHelpful(_)) { 1.0 } else { -1.0 };
        let worth = |interval: &Option<Interval>| interval.map_or(f64::NEG_INFINITY, |at| sign * at.mean);
        all.sort_by(|a, b| worth(&b.1).total_cmp(&worth(&a.1)));
        all
    }

    /// The truth in one sentence.
    fn subtitle(&self) -> String {
        let (rows, measured) = (self.found.retrained.train.rows.len(), self.found.measured.len());
        let question = self.retraining.question.summary();
        match self.choosing {
            Choosing::MostHelpful(count) => format!(
                "for each of {measured} queries a training without its {count} most helpful of {rows} rows: {question}"
            ),
            Choosing::AllBut(keep) => {
                let kept = match keep {
                    Amount::Count(count) => format!("{count}"),
                    Amount::Share(share) => format!("{} %", 100.0 * share),
                };
                format!(
                    "a training on the best {kept} of {rows} rows for the first, third … query, and the losses of \
                     {measured} others: {question}"
                )
            }
        }
    }

    fn summary(&self, list: &[(&Effect, Option<Interval>)]) -> Map<String, Value> {
        let mut all = inputs(self.truth, self.retraining, &self.found.retrained, FIGURE, self.device);
        let (rule, amount) = match self.choosing {
            Choosing::MostHelpful(count) => ("most helpful rows of each query left out", json!(count)),
            Choosing::AllBut(Amount::Count(count)) => ("best rows kept", json!(count)),
            Choosing::AllBut(Amount::Share(share)) => ("share of best rows kept", json!(share)),
        };
        let methods = list.iter().map(|(Effect { run, changes }, interval)| {
            json!({
                "method": run.name, "change": interval.map(|at| at.mean), "low": interval.and_then(|at| at.low),
                "high": interval.and_then(|at| at.high), "bytes": run.bytes, "residual": run.residual,
                "converged": run.converged, "failure": failure(run), "changes": changes,
            })
        });
        let methods = methods.collect::<Vec<_>>();
        let more =
            [("choice", json!(rule)), ("amount", amount), ("measured_queries", json!(self.found.measured.len()))];
        all.extend(more.map(|(name, value)| (name.to_owned(), value)));
        all.insert("methods".to_owned(), json!(methods));
        all
    }

    fn changes(&self, list: &[(&Effect, Option<Interval>)]) -> Vec<Vec<String>> {
        let query = &self.found.retrained.query;
        let mut rows = Vec::new();
        for (effect, _) in list {
            for (&place, change) in self.found.measured.iter().zip(effect.changes.iter().flatten()) {
                rows.push(vec![effect.run.name.clone(), query.id(place).to_string(), change.to_string()]);
            }
        }
        rows
    }

    fn page(&self, about: &str, list: &[(&Effect, Option<Interval>)], picture: &[u8]) -> Comparison {
        let facts = self.summary(list).into_iter().filter(|(name, _)| name != "methods");
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Comparison {
            title: format!("{}: what do the rows that a method chooses do?", self.found.retrained.files.name),
            subtitle: self.subtitle(),
            notes: vec![FIGURE.to_owned(), about.to_owned()],
            columns: HEADS.map(str::to_owned).into(),
            rows: list.iter().map(shown).collect(),
            pictures: vec![("The changes".to_owned(), picture.to_vec())],
            facts: facts.map(|(name, value)| Fact { value: text(&value), name }).collect(),
        }
    }

    fn text(&self, about: &str, list: &[(&Effect, Option<Interval>)], out: &mut dyn Write) -> Io<()> {
        writeln!(out, "{}\n{about}\n", self.subtitle())?;
        let aligned = HEADS.iter().enumerate();
        let aligned = aligned.map(|(place, head)| (*head, if place == 0 { Align::Left } else { Align::Right }));
        let mut table = Grid::new(aligned);
        list.iter().for_each(|judged| table.row(shown(judged)));
        table.write(out)?;
        for (effect, _) in list {
            if let Some(reason) = failure(&effect.run) {
                writeln!(out, "{}: {reason}", effect.run.name)?;
            }
        }
        let folder = self.truth.shared().out.display();
        writeln!(out, "\nEverything: {} and summary.json in {folder}", FILES.join(", "))
    }
}

const COLUMNS: [&str; 7] = ["method", "change", "low", "high", "residual", "converged", "failure"];
const HEADS: [&str; 5] = ["method", "change of loss", "95 % interval", "seconds", "bytes"];

/// A method for people.
fn shown((Effect { run, .. }, interval): &(&Effect, Option<Interval>)) -> Vec<String> {
    let none = || "–".to_owned();
    let ends = interval.and_then(|at| Some(format!("[{:+.4}, {:+.4}]", at.low?, at.high?)));
    vec![
        run.name.clone(),
        interval.map_or_else(none, |at| format!("{:+.4}", at.mean)),
        ends.unwrap_or_else(none),
        format!("{:.2}", run.seconds),
        run.bytes.to_string(),
    ]
}

fn picture(list: &[(&Effect, Option<Interval>)], truth: &str) -> Result<Vec<u8>, CliError> {
    let bar = |(effect, interval): &(&Effect, Option<Interval>)| {
        let Interval { mean, low, high } = (*interval)?;
        let interval = (low.unwrap_or(mean), high.unwrap_or(mean));
        Some(Bar { name: effect.run.name.clone(), value: mean, interval })
    };
    let all: Vec<Bar> = list.iter().filter_map(bar).collect();
    let title = format!("eval adapter {truth}: change of the loss in nats, 95 % interval");
    bytes_of(|path| bars(path, &Bars { title: &title, bars: &all }))
}
