//! The result of `hyperinf eval adapter` as CSV, JSON, pictures, a page and text.

use std::error::Error;
use std::io::{Result as Io, Write};

use hyperinf::data::{MethodRun, Retrained, Retraining};
use hyperinf::eval::{Interval, LdsSpread};
use hyperinf::store::{Cells, OutputFolder, Staged, WriteError, cell, publish, stage_csv, stage_json};
use hyperinf_report::{Comparison, Fact};
use serde_json::{Map, Value, json};

use super::adapter::Judged;
use crate::args::AdapterCommand;
use crate::config;
use crate::error::CliError;
use crate::figure::{Axis, Bar, Bars, Line, Panel, Point, bars, bytes_of, lines};
use crate::grid::{Align, Grid};
use crate::to_stdout;

const FILES: [&str; 7] =
    ["methods.csv", "costs.csv", "losses.csv", "methods.png", "course.png", "cost.png", "report.html"];
/// All output files, the summary last.
pub(super) const OUTPUTS: [&str; 9] =
    [FILES[0], FILES[1], FILES[2], FILES[3], FILES[4], FILES[5], FILES[6], config::FILE, "summary.json"];
const FIGURE: &str = "Spearman's correlation over trainings of the summed scores of the rows that stayed with the negative \
                      loss, mean over queries, in [-1, 1]; higher = better";
const COLUMNS: [&str; 14] = [
    "method",
    "lds",
    "low",
    "high",
    "subsets_low",
    "subsets_high",
    "queries_low",
    "queries_high",
    "constant",
    "width",
    "next",
    "residual",
    "converged",
    "failure",
];

/// A result and what the program knows about it.
pub(super) struct Report<'a> {
    pub(super) truth: &'a AdapterCommand,
    pub(super) retraining: &'a Retraining,
    pub(super) retrained: &'a Retrained,
    /// Of halves of the repeats.
    pub(super) agreement: Option<f64>,
    pub(super) judged: &'a [Judged],
    pub(super) device: &'a str,
}

impl Report<'_> {
    /// Writes the files and prints the table, or the summary.
    pub(super) fn write(&self, folder: &OutputFolder, about: &str) -> Result<(), CliError> {
        let paths = OUTPUTS.map(|name| folder.file(name));
        let [methods, costs, losses, bars_png, course_png, cost_png, page, config_file, json] = &paths;
        let (summary, pictures) = (self.summary(), self.pictures()?);
        let [of_bars, of_course, of_cost] = &pictures;
        let bytes = |path, bytes: &Vec<u8>| Staged::new(path, |file| file.write_all(bytes).map_err(WriteError::Io));
        let mut staged = vec![
            stage_csv(methods, &Cells::new(&COLUMNS, self.judged.iter().map(cells).collect()).table())?,
            stage_csv(costs, &Cells::new(&["method", "lds", "seconds", "bytes"], self.costs()).table())?,
            stage_csv(losses, &Cells::new(&LOSSES, self.losses()).table())?,
        ];
        for (path, png) in [(bars_png, of_bars), (course_png, of_course), (cost_png, of_cost)] {
            staged.push(bytes(path, png)?);
        }
        staged.push(self.page(about, &pictures).stage(page)?);
        staged.push(config::stage(config_file)?);
        staged.push(stage_json(json, &summary)?);
        publish(staged, &[])?;
        to_stdout(|out| {
            if self.truth.shared().json {
                serde_json::to_writer_pretty(&mut *out, &summary)?;
                return writeln!(out);
            }
            self.text(about, out)
        })
    }

    /// The truth in one sentence.
    fn subtitle(&self) -> String {
        let Retrained { removed, train, query, .. } = self.retrained;
        let repeats = match self.retraining.repeats {
            1 => String::new(),
            repeats => format!(", {repeats} times each"),
        };
        format!(
            "{} trainings{repeats}, each without {} of {} rows, and the losses of {} queries: {}",
            removed.len(),
            removed.first().map_or(0, Vec::len),
            train.rows.len(),
            query.data.rows.len(),
            self.retraining.question.summary()
        )
    }

    /// What one more training would add, of the best method.
    fn advice(&self) -> Option<String> {
        let Judged { run, spread } = self.judged.first()?;
        let spread = spread.as_ref()?;
        let subsets = self.retrained.removed.len();
        let (now, next, twice) = (spread.width(subsets)?, spread.next()?, spread.width(2 * subsets)?);
        Some(format!(
            "The interval of {} is {now:.3} wide; one more subset would narrow it by {next:.4}, twice as many to \
             {twice:.3}; more queries narrow it, too.",
            run.name
        ))
    }

    fn summary(&self) -> Map<String, Value> {
        let Retrained { query, removed, .. } = self.retrained;
        let (base, all) = (query.losses(), self.retrained.losses.iter().flatten().flatten());
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let means: Vec<f64> = all.map(|losses| mean(losses)).collect();
        let entries = [
            ("subsets", json!(removed.len())),
            ("left_out", json!(removed.first().map_or(0, Vec::len))),
            ("mean_loss_of_the_adapter", json!(mean(&base))),
            (
                "mean_loss_of_trainings",
                json!({
                    "least": means.iter().copied().fold(f64::INFINITY, f64::min),
                    "mean": mean(&means),
                    "most": means.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                }),
            ),
            ("agreement_of_halves_of_the_repeats", json!(self.agreement)),
            ("advice", json!(self.advice())),
            ("methods", self.judged.iter().map(entry).collect()),
        ];
        let mut all = inputs(self.truth, self.retraining, self.retrained, FIGURE, self.device);
        all.extend(entries.map(|(name, value)| (name.to_owned(), value)));
        all
    }

    fn costs(&self) -> Vec<Vec<String>> {
        let row = |Judged { run, spread }: &Judged| {
            let score = cell(spread.as_ref().map(|spread| spread.lds.mean.mean));
            vec![run.name.clone(), score, format!("{:.3}", run.seconds), run.bytes.to_string()]
        };
        self.judged.iter().map(row).collect()
    }

    /// The loss of every query after every training, and with the adapter.
    fn losses(&self) -> Vec<Vec<String>> {
        let query = &self.retrained.query;
        let ids: Vec<String> = (0..query.data.rows.len()).map(|place| query.id(place).to_string()).collect();
        let base = query.losses();
        let mut rows = Vec::new();
        for (subset, repeats) in self.retrained.losses.iter().enumerate() {
            for (repeat, losses) in repeats.iter().enumerate() {
                for ((id, loss), base) in ids.iter().zip(losses.iter().flatten()).zip(&base) {
                    let cells = [subset.to_string(), repeat.to_string(), id.clone(), loss.to_string()];
                    rows.push(cells.into_iter().chain([(loss - base).to_string()]).collect());
                }
            }
        }
        rows
    }

    fn pictures(&self) -> Result<[Vec<u8>; 3], CliError> {
        let found: Vec<(&Judged, &LdsSpread)> =
            self.judged.iter().filter_map(|judged| Some((judged, judged.spread.as_ref()?))).collect();
        let bar = |(judged, spread): &(&Judged, &LdsSpread)| {
            let Interval { mean, low, high } = spread.both;
            Bar { name: judged.run.name.clone(), value: mean, interval: (low.unwrap_or(mean), high.unwrap_or(mean)) }
        };
        let list: Vec<Bar> = found.iter().map(bar).collect();
        let (truth, question) = (self.truth.name(), self.retraining.question.name());
        let title = format!("eval adapter {truth}, {question} training: LDS, 95 % interval");
        let line = |name: &str, points| Line { name: name.to_owned(), points, look: None };
        let course: Vec<Line> = found
            .iter()
            .map(|(judged, spread)| {
                let points = spread.course.iter().map(|(subsets, at)| Point::new(*subsets as f64, at.mean)).collect();
                line(&judged.run.name, points)
            })
            .collect();
        let widths: Vec<Line> = found
            .iter()
            .map(|(judged, spread)| {
                let width = |at: &Interval| Some(at.high? - at.low?);
                let point = |(subsets, at): &(usize, Interval)| Some(Point::new(*subsets as f64, width(at)?));
                line(&judged.run.name, spread.course.iter().filter_map(point).collect())
            })
            .collect();
        let costs: Vec<Line> = found
            .iter()
            .map(|(judged, spread)| {
                let Interval { mean, low, high } = spread.both;
                let (low, high) = (low.unwrap_or(mean), high.unwrap_or(mean));
                line(&judged.run.name, vec![Point { x: judged.run.seconds, y: mean, low, high }])
            })
            .collect();
        let panel = |title, x, y, lines| Panel { title, x, y, lines, mark: None };
        let subsets = || Axis::linear("subsets");
        Ok([
            bytes_of(|path| bars(path, &Bars { title: &title, bars: &list }))?,
            bytes_of(|path| {
                let scores = panel("LDS after the first subsets", subsets(), Axis::linear("LDS"), &course);
                let of_width = panel("width of its 95 % interval", subsets(), Axis::linear("width"), &widths);
                lines(path, &[scores, of_width])
            })?,
            bytes_of(|path| {
                let seconds = Axis::logarithmic("seconds for the scores of all rows and queries");
                lines(path, &[panel("accuracy against cost", seconds, Axis::linear("LDS"), &costs)])
            })?,
        ])
    }

    fn page(&self, about: &str, pictures: &[Vec<u8>; 3]) -> Comparison {
        let what = ["The scores", "How certain they are", "What they cost"];
        let facts = self.summary().into_iter().filter(|(name, _)| name != "methods");
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Comparison {
            title: format!("{}: do scores predict the losses after training again?", self.retrained.files.name),
            subtitle: self.subtitle(),
            notes: [FIGURE.to_owned(), about.to_owned()].into_iter().chain(self.advice()).collect(),
            columns: ["method", "LDS", "95 % interval", "over subsets alone", "seconds", "bytes", "residual"]
                .map(str::to_owned)
                .into(),
            rows: self.judged.iter().map(shown).collect(),
            pictures: what.iter().map(|what| (*what).to_owned()).zip(pictures.iter().cloned()).collect(),
            facts: facts.map(|(name, value)| Fact { value: text(&value), name }).collect(),
        }
    }

    fn text(&self, about: &str, out: &mut dyn Write) -> Io<()> {
        writeln!(out, "{}\n{about}\n", self.subtitle())?;
        if let Some(agreement) = self.agreement {
            writeln!(out, "half of the repeats predicts the other half with {agreement:.3}\n")?;
        }
        let heads = ["method", "LDS", "95 % interval", "over subsets", "seconds", "bytes", "residual"];
        let aligned = heads.iter().enumerate();
        let aligned = aligned.map(|(place, head)| (*head, if place == 0 { Align::Left } else { Align::Right }));
        let mut table = Grid::new(aligned);
        self.judged.iter().for_each(|judged| table.row(shown(judged)));
        table.write(out)?;
        for Judged { run, .. } in self.judged {
            if let Some(reason) = failure(run) {
                writeln!(out, "{}: {reason}", run.name)?;
            }
        }
        if let Some(advice) = self.advice() {
            writeln!(out, "\n{advice}")?;
        }
        let folder = self.truth.shared().out.display();
        writeln!(out, "\nEverything: {} and summary.json in {folder}", FILES.join(", "))
    }
}

/// What every ground truth of an adapter says of where it comes from.
pub(super) fn inputs(
    truth: &AdapterCommand,
    retraining: &Retraining,
    retrained: &Retrained,
    figure: &str,
    device: &str,
) -> Map<String, Value> {
    let (args, Retrained { kind, train, query, files, steps, .. }) = (truth.shared(), retrained);
    let input = |data: &hyperinf::data::Dataset<hyperinf::data::RowText>| {
        json!({
            "file": data.path, "xxh3_128": data.xxh3_128, "columns": data.columns,
            "rows": data.total, "used": data.rows.len(),
        })
    };
    let entries = [
        ("command", json!("eval")),
        ("hyperinf_version", json!(env!("CARGO_PKG_VERSION"))),
        ("truth", json!(format!("adapter {}", truth.name()))),
        ("figure", json!(figure)),
        ("sign", json!("positive = helpful")),
        ("question", json!(retraining.question.name())),
        ("question_means", json!(retraining.question.summary())),
        ("task", json!(kind)),
        ("model", json!({ "path": files.name, "xxh3_128": files.model_hashes })),
        ("adapter", json!({ "path": files.adapter, "xxh3_128": files.adapter_hashes })),
        ("train", input(train)),
        ("query", input(&query.data)),
        ("steps", json!(steps)),
        ("repeats", json!(retraining.repeats)),
        ("seed", json!(retraining.draw)),
        ("damping", json!(args.damping)),
        ("draws", json!(args.draws)),
        ("metric", json!(args.metric)),
        ("device", json!(device)),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

const LOSSES: [&str; 5] = ["subset", "repeat", "query_id", "loss", "change"];

/// The numbers of a method, as [`COLUMNS`].
fn cells(judged: &Judged) -> Vec<String> {
    let entry = entry(judged);
    let text = |name: &&str| match &entry[*name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    COLUMNS.iter().map(text).collect()
}

/// The numbers of a method. Seconds are not among them: equal runs write equal files.
fn entry(Judged { run, spread }: &Judged) -> Value {
    let spread = spread.as_ref();
    let ends = |of: fn(&LdsSpread) -> Interval| spread.map(of).map_or((None, None), |at| (at.low, at.high));
    let (both, subsets, queries) = (ends(|at| at.both), ends(|at| at.subsets), ends(|at| at.lds.mean));
    let width = spread.and_then(|spread| spread.width(spread.course.last()?.0));
    json!({
        "method": run.name,
        "lds": spread.map(|spread| spread.lds.mean.mean),
        "low": both.0, "high": both.1,
        "subsets_low": subsets.0, "subsets_high": subsets.1,
        "queries_low": queries.0, "queries_high": queries.1,
        "constant": spread.map(|spread| spread.lds.constant),
        "width": width,
        "next": spread.and_then(LdsSpread::next),
        "bytes": run.bytes,
        "residual": run.residual,
        "converged": run.converged,
        "failure": failure(run),
        "queries": spread.map(|spread| &spread.lds.queries),
        "course": spread.map(|spread| &spread.course),
    })
}

/// Why a method has no scores.
pub(super) fn failure(run: &MethodRun) -> Option<String> {
    let error = run.scores.as_ref().err()?;
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    Some(text)
}

/// A method for people.
fn shown(Judged { run, spread }: &Judged) -> Vec<String> {
    let none = || "–".to_owned();
    let ends = |at: &Interval| match (at.low, at.high) {
        (Some(low), Some(high)) => format!("[{low:.3}, {high:.3}]"),
        _ => none(),
    };
    let of = |text: &dyn Fn(&LdsSpread) -> String| spread.as_ref().map_or_else(none, text);
    let star = if run.converged { "" } else { "*" };
    vec![
        run.name.clone(),
        of(&|spread| format!("{:.3}", spread.lds.mean.mean)),
        of(&|spread| ends(&spread.both)),
        of(&|spread| ends(&spread.subsets)),
        format!("{:.2}", run.seconds),
        run.bytes.to_string(),
        run.residual.map_or_else(none, |residual| format!("{residual:.1e}{star}")),
    ]
}
