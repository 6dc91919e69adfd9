//! `hyperinf query`: which rows of an index help and harm a prediction.

mod serve;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use hyperinf::data::{Answer, AnsweredQuery, Asked, ColumnOptions, Hit, Query, Reading};
use hyperinf::store::{Factors, ScoreFile};
use serde_json::{Value, json};

use crate::args::QueryArgs;
use crate::config;
use crate::error::{CliError, Usage};
use crate::interrupt;
use crate::progress::observer;
use crate::score::{self, Scoring, Settings, counted, entries, head};
use crate::terminal::name;
use crate::text::{excerpt, excerpts, size};
use crate::to_stdout;

/// Asks an index, and prints the ends of each ranking.
///
/// # Errors
///
/// See [`CliError`].
pub(crate) fn run(args: &QueryArgs) -> Result<(), CliError> {
    let settings = Settings::new(&args.scoring, args.query_mode)?.of_stored()?;
    let serves = args.query.as_deref() == Some(Path::new("-"));
    if let (true, Some(path)) = (serves, &args.output) {
        let reason = "rows of standard input are answered one by one, not scored into a file";
        let first = format!("--output {}", path.display());
        return Err(Usage::Combination { first, second: "--query -", reason }.into());
    }
    let inputs: Vec<_> = args.query.iter().map(std::path::PathBuf::as_path).collect();
    let mut output = args.output.as_deref().map(|path| ScoreFile::new(path, &inputs)).transpose()?;
    output.iter_mut().for_each(|output| output.rank_by = settings.rank_by);
    let cells =
        [("text", &args.text), ("label", &args.label), ("prompt", &args.prompt), ("completion", &args.completion)];
    let cells: BTreeMap<String, String> =
        cells.into_iter().filter_map(|(column, cell)| Some((column.to_owned(), cell.clone()?))).collect();
    let query = Query {
        index: args.index.clone(),
        asked: args.query.clone().map_or(Asked::Row(cells), Asked::File),
        model: args.moved.model.clone(),
        adapter: args.moved.adapter.clone(),
        tokenizer: args.moved.tokenizer.clone(),
        columns: ColumnOptions { id: args.id_column.clone(), ..ColumnOptions::default() },
        options: settings.options.clone(),
        projection: settings.projection,
        memory: args.scoring.memory(),
        rank_by: settings.rank_by,
        top: args.top_k,
        keep_factors: !args.keep_nothing,
        every_row: args.every_row || args.output.is_some(),
        device_name: settings.device_name.clone(),
        stop: interrupt::stop(),
    };
    if serves {
        score::warn_of_choices(&settings);
        return serve::run(&query, &settings.device);
    }
    let found = query.ask(&settings.device, &mut observer())?;
    if args.scoring.strict {
        score::check_converged(&found.attribution)?;
    }
    score::warn(&settings, &found.attribution);
    let scoring = Scoring::new(&settings, &found.pair, &found.attribution, found.attribution.scores.queries());
    if let Some(output) = &output {
        let mut metadata = entries(&scoring);
        metadata.insert("index".into(), json!(found.index.manifest().key));
        let beside = output.metadata_file();
        let staged = output.stage(&beside, &found.attribution.scores, None, &found.ids()?, &metadata)?;
        config::place(&output.path, staged)?;
    }
    to_stdout(|out| if args.scoring.json { as_json(out, &found, &scoring) } else { as_text(out, &found, &scoring) })
}

fn as_json(out: &mut dyn Write, found: &Answer, scoring: &Scoring) -> io::Result<()> {
    let mut all = entries(scoring);
    let more = [
        ("command", json!("query")),
        ("index", json!(found.index.path())),
        ("answers", json!(found.answers)),
        ("read", json!(found.reading)),
        ("curvature_found", Value::from(matches!(found.factors, Factors::Found { .. }))),
        ("curvature_bytes", json!(bytes_of(&found.factors))),
        ("nothing_kept", json!(reason(&found.factors))),
        ("seconds", json!(found.seconds)),
    ];
    all.extend(more.map(|(name, value)| (name.to_owned(), value)));
    serde_json::to_writer_pretty(&mut *out, &all)?;
    writeln!(out)
}

fn as_text(out: &mut dyn Write, found: &Answer, scoring: &Scoring) -> io::Result<()> {
    let seconds = found.seconds;
    let scored = seconds.curvature + seconds.scores;
    head(out, scoring, found.index.manifest().blocks.len(), scored)?;
    let kept = bytes_of(&found.factors).map_or_else(String::new, |bytes| format!(" ({} in the index)", size(bytes)));
    let curvature = match &found.factors {
        Factors::Nothing { reason } => format!("none is kept: {reason}"),
        Factors::Found { .. } => format!("that of an earlier run{kept}"),
        Factors::Computed { .. } => format!("computed{kept}"),
    };
    let (load, gradients) = (seconds.load, seconds.gradients);
    writeln!(out, "model {load:.2} s, gradients {gradients:.2} s, scores {scored:.3} s; curvature: {curvature}")?;
    match &found.reading {
        Reading::Few { rows, sketched: 0 } => writeln!(out, "{} read in full", counted(*rows, "row", "rows"))?,
        Reading::Few { rows, sketched } => {
            let (rows, leaves) = (counted(*rows, "row", "rows"), counted(*sketched, "leaf", "leaves"));
            writeln!(out, "{rows} read in full; {leaves} sketched for later questions")?;
        }
        Reading::Every { reason } => writeln!(out, "all rows read: {reason}")?,
    }
    found.answers.iter().try_for_each(|answer| print(out, answer, found.query.data.rows.len()))
}

/// The length of the kept curvature.
fn bytes_of(factors: &Factors) -> Option<u64> {
    match factors {
        Factors::Found { bytes, .. } => Some(*bytes),
        Factors::Computed { bytes, .. } => *bytes,
        Factors::Nothing { .. } => None,
    }
}

fn reason(factors: &Factors) -> Option<&'static str> {
    match factors {
        Factors::Nothing { reason } => Some(reason),
        Factors::Found { .. } | Factors::Computed { .. } => None,
    }
}

fn print(out: &mut dyn Write, answer: &AnsweredQuery, queries: usize) -> io::Result<()> {
    let named = |label: &Option<String>| label.as_ref().map_or_else(String::new, |label| format!(" ({})", name(label)));
    match (&answer.query_id, &answer.text) {
        (Some(id), Some(text)) => {
            writeln!(out, "\nquery {}{}: {}", name(&id.to_string()), named(&answer.label), excerpt(text))?;
        }
        _ => writeln!(out, "\nthe mean of {}", counted(queries, "query", "queries"))?,
    }
    let lists = [
        ("most influential", &answer.most_influential),
        ("most helpful", &answer.most_helpful),
        ("most harmful", &answer.most_harmful),
    ];
    let texts: Vec<&str> = lists.iter().flat_map(|(_, hits)| hits.iter()).map(|hit| hit.text.as_str()).collect();
    let mut texts = excerpts(&texts).into_iter();
    for (title, hits) in lists.into_iter().filter(|(_, hits)| !hits.is_empty()) {
        writeln!(out, "  {title}")?;
        for (Hit { train_id, score, label, .. }, text) in hits.iter().zip(&mut texts) {
            writeln!(out, "  {score:>+10.3e}  {}{}: {text}", name(&train_id.to_string()), named(label))?;
        }
    }
    Ok(())
}
