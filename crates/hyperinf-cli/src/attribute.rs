//! `hyperinf attribute`: scores of training rows for query rows.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::time::Instant;

use hyperinf::eval::Stability;
use hyperinf::scoring::{QueryMode, ranking};
use serde::Serialize;

use crate::args::{AttributeArgs, FormatArg, QueryModeArg};
use crate::error::CliError;
use crate::influence::{Job, Rows, Scored, Summary};
use crate::score::{bars, counted, head};
use crate::text::excerpt;
use crate::to_stdout;
use hyperinf::store::{IdColumn, Ids, ScoreFile, Staged, WriteError, stage_json};

/// Queries that are shown to people.
const QUERIES: usize = 3;
/// Training rows that are shown at either end.
const SHOWN: usize = 3;

/// A line of `topk.jsonl`: the ends of one query's ranking.
#[derive(Serialize)]
struct Ends {
    #[serde(flatten)]
    query: Query,
    /// The highest scores, the highest first.
    most_helpful: Vec<Found>,
    /// The lowest scores, the lowest first.
    most_harmful: Vec<Found>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Query {
    Each {
        query_id: IdValue,
        text: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<String>,
    },
    Mean {
        query_id: IdValue,
        mean_of: usize,
    },
}

#[derive(Serialize)]
struct Found {
    train_id: IdValue,
    score: f64,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

/// A number or a name.
#[derive(Serialize)]
#[serde(untagged)]
enum IdValue {
    Number(i64),
    Name(String),
}

/// Scores, and writes what was found.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind, but for hidden files from which the same run goes on.
pub fn run(args: &AttributeArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let folder = &args.influence.out;
    let scores = folder.join(args.format.file());
    let output = ScoreFile::at(&scores)?;
    let mut outputs = vec![args.format.file(), "topk.jsonl", "summary.json"];
    if args.format == FormatArg::Csv {
        outputs.push("scores.csv.json");
    }
    let job = Job {
        args: &args.influence,
        query: &args.query,
        mode: args.query_mode.unwrap_or(match args.uncertainty {
            Some(_) => QueryModeArg::Mean,
            None => QueryModeArg::Each,
        }),
        seeds: args.uncertainty,
        outputs: &outputs,
    };
    let earlier = job.earlier("attribute", "scores.");
    let scored = job.run(|_| Ok(()))?;
    let summary = Summary::new("attribute", &scored, began.elapsed().as_secs_f64(), job.outputs());
    let ids = ids(&scored);
    let rankings = |k: usize| (0..scored.attribution.scores.queries()).map(move |query| (query, k));
    let (topk, told) = (folder.join("topk.jsonl"), folder.join("summary.json"));
    let topk =
        Staged::new(&topk, |file| lines(file, rankings(args.top_k).map(|(query, k)| ends(&scored, &ids, query, k))))?;
    let told = stage_json(&told, &summary)?;
    output.write(&scored.attribution.scores, scored.spread.as_ref().map(bars), &ids, &summary.metadata())?;
    topk.place()?;
    told.place()?;
    earlier.remove()?;
    to_stdout(|out| {
        if args.influence.scoring.json {
            serde_json::to_writer_pretty(&mut *out, &summary)?;
            return writeln!(out);
        }
        head(out, &summary.scoring, summary.blocks(), summary.seconds)?;
        if let (Some(spread), Some(seeds)) = (&scored.spread, args.uncertainty) {
            let Stability { spearman, top, overlap } = spread.stability;
            writeln!(
                out,
                "between two of {seeds} seeds: Spearman {}, {:.0} % of the {top} highest",
                spearman.map_or("–".into(), |found| format!("{found:.3}")),
                100.0 * overlap
            )?;
        }
        for (query, k) in rankings(SHOWN.min(args.top_k)).take(QUERIES) {
            text(out, &ends(&scored, &ids, query, k))?;
        }
        let left = scored.attribution.scores.queries().saturating_sub(QUERIES);
        if left > 0 {
            writeln!(out, "\n… and {}", counted(left, "more query", "more queries"))?;
        }
        writeln!(out, "\nEverything: {}, topk.jsonl, summary.json in {}", args.format.file(), folder.display())
    })?;
    scored.settle_gradients(&args.influence)
}

/// The ids of the scores' rows and columns; the mean query has the number 0.
fn ids(scored: &Scored) -> Ids {
    let queries = match scored.settings.options.query {
        QueryMode::Each => scored.query.ids(),
        QueryMode::Mean => IdColumn::numbered(1),
    };
    Ids { queries, train: scored.train.ids() }
}

fn ends(scored: &Scored, ids: &Ids, query: usize, k: usize) -> Ends {
    let row = &scored.attribution.scores.rows[query];
    let order = ranking(row);
    let found = |&sample: &usize| {
        let (text, label) = content(&scored.train, sample);
        Found { train_id: id(&ids.train, sample), score: row[sample], text, label }
    };
    let query_id = id(&ids.queries, query);
    let query = if scored.settings.options.query == QueryMode::Each {
        let (text, label) = content(&scored.query, query);
        Query::Each { query_id, text, label }
    } else {
        Query::Mean { query_id, mean_of: scored.query.data.rows.len() }
    };
    Ends {
        query,
        most_helpful: order.iter().take(k).map(found).collect(),
        most_harmful: order.iter().rev().take(k).map(found).collect(),
    }
}

fn content(rows: &Rows, sample: usize) -> (String, Option<String>) {
    let content = &rows.data.rows[sample].content;
    (content.text(), content.label().map(str::to_owned))
}

fn id(ids: &IdColumn, sample: usize) -> IdValue {
    match ids {
        IdColumn::Numbers(numbers) => IdValue::Number(numbers[sample]),
        IdColumn::Names(names) => IdValue::Name(names[sample].clone()),
    }
}

fn lines(file: &mut File, lines: impl Iterator<Item = impl Serialize>) -> Result<(), WriteError> {
    let mut out = BufWriter::new(file);
    for line in lines {
        serde_json::to_writer(&mut out, &line)?;
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

fn text(out: &mut dyn Write, ends: &Ends) -> io::Result<()> {
    match &ends.query {
        Query::Each { query_id, text, label } => writeln!(out, "\nquery {query_id}{}: {}", told(label), excerpt(text))?,
        Query::Mean { mean_of, .. } => writeln!(out, "\nthe mean of {}", counted(*mean_of, "query", "queries"))?,
    }
    for (title, rows) in [("most helpful", &ends.most_helpful), ("most harmful", &ends.most_harmful)] {
        writeln!(out, "  {title}")?;
        for Found { train_id, score, text, label } in rows {
            writeln!(out, "  {score:>+10.3e}  {train_id}{}: {}", told(label), excerpt(text))?;
        }
    }
    Ok(())
}

fn told(label: &Option<String>) -> String {
    label.as_ref().map_or_else(String::new, |label| format!(" ({label})"))
}

impl std::fmt::Display for IdValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}
