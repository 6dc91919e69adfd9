//! The demo's output: score files, the summary, and the table on standard output.

use std::io::{Result, Write};

use hyperinf::scoring::{Amount, detect};
use serde::Serialize;
use serde_json::{Map, json};

use super::compare::MethodResult;
use super::{Demo, Files};
use crate::error::CliError;
use hyperinf::store::{Column, Table, publish, ranks, stage_csv, stage_json, stage_parquet};

/// The number of mails shown.
const SHOWN: usize = 10;
/// Characters shown of a mail.
const EXCERPT: usize = 300;
/// The method whose scores select them.
const JUDGE: &str = "hyperinf";

#[derive(Serialize)]
struct Summary<'a> {
    command: &'static str,
    seed: u64,
    noise: f64,
    device: &'a str,
    training_mails: usize,
    validation_mails: usize,
    flipped: usize,
    training_seconds: f64,
    gradient_seconds: f64,
    methods: Vec<MethodSummary>,
    most_suspicious: Vec<Suspect<'a>>,
}

#[derive(Serialize)]
struct MethodSummary {
    name: &'static str,
    auc: Option<f64>,
    found_at_10: Option<f64>,
    found_at_20: Option<f64>,
    found_at_30: Option<f64>,
    spearman_exact: Option<f64>,
    residual: Option<f64>,
    converged: bool,
    seconds: f64,
}

/// A suspicious mail.
#[derive(Serialize)]
struct Suspect<'a> {
    train_id: usize,
    score: f64,
    given_label: &'static str,
    flipped: bool,
    text: &'a str,
}

fn suspects<'a>(demo: &'a Demo<'_>) -> Vec<Suspect<'a>> {
    let Some(judge) = demo.results.iter().find(|o| o.name == JUDGE) else { return Vec::new() };
    let count = SHOWN.min(judge.scores.len());
    let order = detect(&judge.scores, Amount::Count(count)).expect("the count is at most that of the samples");
    let suspect = |train_id: usize| Suspect {
        train_id,
        score: judge.scores[train_id],
        given_label: label(demo, train_id),
        flipped: demo.flipped[train_id],
        text: &demo.mails[train_id].text,
    };
    order.into_iter().map(suspect).collect()
}

/// The label used in training.
fn label(demo: &Demo<'_>, train_id: usize) -> &'static str {
    if demo.mails[train_id].spam != demo.flipped[train_id] { "spam" } else { "ham" }
}

/// Writes the scores of every method and the summary.
pub(super) fn write(demo: &Demo<'_>, files: &Files) -> std::result::Result<(), CliError> {
    let n = demo.mails.len();
    let methods = demo.results.len();
    let labels: Vec<&str> = (0..n).map(|i| label(demo, i)).collect();
    let table = Table::new(vec![
        ("method", Column::Text(demo.results.iter().flat_map(|o| std::iter::repeat_n(o.name, n)).collect())),
        ("query_id", Column::Whole(vec![0; methods * n])),
        ("train_id", Column::Whole((0..methods).flat_map(|_| 0..n as i64).collect())),
        ("score", Column::Real(demo.results.iter().flat_map(|o| o.scores.iter().map(|&s| s as f32)).collect())),
        ("rank", Column::Whole(demo.results.iter().flat_map(|o| ranks(&o.scores)).collect())),
        ("given_label", Column::Text(labels.repeat(methods))),
        ("flipped", Column::Truth(demo.flipped.repeat(methods))),
    ]);
    let metadata = Map::from_iter([
        ("hyperinf_version".to_owned(), json!(env!("CARGO_PKG_VERSION"))),
        ("sign".to_owned(), json!("positive = helpful")),
        ("query_mode".to_owned(), json!("mean")),
        ("seed".to_owned(), json!(demo.seed)),
        ("noise".to_owned(), json!(demo.noise)),
    ]);
    let parquet = stage_parquet(&files.parquet, std::iter::once(table.clone()), &metadata)?;
    let csv = stage_csv(&files.csv, &table)?;
    let summary = Summary {
        command: "demo",
        seed: demo.seed,
        noise: demo.noise,
        device: &demo.device,
        training_mails: n,
        validation_mails: demo.validation,
        flipped: flipped(demo),
        training_seconds: demo.training_seconds,
        gradient_seconds: demo.gradient_seconds,
        methods: demo.results.iter().map(method).collect(),
        most_suspicious: suspects(demo),
    };
    let summary = stage_json(&files.summary, &summary)?;
    Ok(publish(vec![parquet, csv, summary], &super::stale(&files.folder, "scores.png"))?)
}

fn flipped(demo: &Demo<'_>) -> usize {
    demo.flipped.iter().filter(|f| **f).count()
}

fn method(result: &MethodResult) -> MethodSummary {
    let [found_at_10, found_at_20, found_at_30] = result.found;
    MethodSummary {
        name: result.name,
        auc: result.auc,
        found_at_10,
        found_at_20,
        found_at_30,
        spearman_exact: result.spearman_exact,
        residual: result.residual,
        converged: result.converged,
        seconds: result.seconds,
    }
}

/// Prints the table, the most suspicious mails, and the names of the files.
pub(super) fn text(demo: &Demo<'_>, files: &Files, out: &mut dyn Write) -> Result<()> {
    writeln!(
        out,
        "{} e-mails, {} of them with a flipped label (seed {}). Fine-tuned in {:.1} s on {}, gradients in {:.1} s.",
        demo.mails.len(),
        flipped(demo),
        demo.seed,
        demo.training_seconds,
        demo.device,
        demo.gradient_seconds
    )?;
    writeln!(
        out,
        "Which method finds the flipped labels? Scores for the mean of {} clean mails, lowest first.\n",
        demo.validation
    )?;
    writeln!(out, "{:<15} {:>6}  {:>20}  {:>8}", "", "", "found in the first", "Spearman")?;
    writeln!(
        out,
        "{:<15} {:>6}  {:>6} {:>6} {:>6}  {:>8}  {:>8}  {:>8}",
        "method", "AUC", "10 %", "20 %", "30 %", "to exact", "residual", "seconds"
    )?;
    for result in &demo.results {
        let [first, second, third] = result.found.map(percent);
        let number = |value: Option<f64>| value.map_or("–".into(), |v| format!("{v:.3}"));
        let star = if result.converged { " " } else { "*" };
        let residual = result.residual.map_or("– ".into(), |r| format!("{r:.1e}{star}"));
        writeln!(
            out,
            "{:<15} {:>6}  {first:>6} {second:>6} {third:>6}  {:>8}  {residual:>9} {:>8.3}",
            result.name,
            number(result.auc),
            number(result.spearman_exact),
            result.seconds
        )?;
    }
    if demo.results.iter().any(|o| !o.converged) {
        writeln!(out, "* the solver stopped before reaching its tolerance")?;
    }
    writeln!(out, "\nThe {SHOWN} most suspicious mails by {JUDGE}:")?;
    for (place, suspect) in suspects(demo).iter().enumerate() {
        let truth = if suspect.flipped { "flipped" } else { "correct" };
        writeln!(
            out,
            "\n{:>2}. mail {}, score {:+.3e}, given label {}: {truth}",
            place + 1,
            suspect.train_id,
            suspect.score,
            suspect.given_label
        )?;
        // A mail may contain control characters, which a terminal would obey.
        let visible = suspect.text.chars().filter(|c| !c.is_control());
        let excerpt: String = visible.take(EXCERPT).collect();
        let dots = if excerpt.len() < suspect.text.len() { " …" } else { "" };
        writeln!(out, "    {excerpt}{dots}")?;
    }
    writeln!(out, "\nScores and summary: scores.parquet, scores.csv, summary.json in {}", files.folder.display())
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".into(), |s| format!("{:.0} %", 100.0 * s))
}
