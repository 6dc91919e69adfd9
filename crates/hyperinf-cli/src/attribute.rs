//! `hyperinf attribute`: scores of training rows for query rows.

use std::io::{self, Write};

use hyperinf::data::{Influence, Ranked, RankedQuery, Ranking, ScoredRow};
use hyperinf::eval::Stability;
use hyperinf::store::{ScoreFile, stage_json};

use crate::args::AttributeArgs;
use crate::error::CliError;
use crate::figure::stage_contact_sheet;
use crate::influence::{Each, Job, RowsSummary, Summary, details};
use crate::progress::observer;
use crate::score::{Settings, bars, counted, head};
use crate::terminal::name;
use crate::text::{excerpt, excerpts};

/// Queries in the printed summary.
const QUERIES: usize = 3;
/// Training rows at either end of a printed ranking.
const SHOWN: usize = 3;

/// The scores of tokens.
const POSITIONS: &str = "positions.jsonl";

/// The contact sheet of rows with images, its queries, and the pictures at either end of each ranking.
const SHEET: &str = "scores.png";
const SHEET_QUERIES: usize = 10;
const SHEET_ROWS: usize = 5;

/// Scores, and writes scores, rankings and a summary.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind, only hidden files from which the same run resumes.
pub(crate) fn run(args: &AttributeArgs) -> Result<(), CliError> {
    let scores_name = format!("scores.{}", args.format);
    let metadata = format!("{scores_name}.json");
    let mut outputs = vec![scores_name.as_str(), "topk.jsonl"];
    if !ScoreFile::at(&args.influence.out.join(&scores_name))?.format.holds_metadata {
        outputs.push(&metadata);
    }
    if args.positions {
        outputs.push(POSITIONS);
    }
    let (command, mode, seeds) = ("attribute", args.mode(), args.uncertainty);
    let (shared, query) = (&args.influence, args.query.as_path());
    let positions = args.positions.then_some(args.top_k);
    let (targets, ensemble) = (&[], &args.ensemble);
    let job = Job { command, args: shared, query, targets, mode, ensemble, seeds, positions, outputs: &outputs };
    job.each(
        |each, before| attribute(args, each, before, &scores_name),
        |each, found| baseline(args, each, &found, &scores_name),
    )
}

/// Writes the scores of a baseline or of the derivative through the training.
fn baseline(args: &AttributeArgs, each: &Each<'_>, found: &Ranked, scores_name: &str) -> Result<(), CliError> {
    let (folder, summary_name, board) = (&each.folder, each.summary_name(), found.board());
    let scores = ScoreFile::at(&folder.join(scores_name))?;
    let mut earlier = each.earlier(&["scores."]);
    let (contacts, mut outputs) = (board.contacts(SHEET_QUERIES, SHEET_ROWS)?, each.outputs());
    if !contacts.is_empty() {
        earlier.writes(SHEET, &mut outputs);
    }
    let summary = RowsSummary::new("attribute", each, found, outputs);
    let (topk, json, beside) = (folder.join("topk.jsonl"), folder.join(&summary_name), scores.metadata_file());
    let mut results = scores.stage(&beside, &found.scores, None, &board.ids(), &summary.metadata())?;
    results.push(board.stage_rankings(&topk, args.top_k)?);
    let sheet = folder.join(SHEET);
    if !contacts.is_empty() {
        let title = format!("{}: training rows by {}", found.files.name, summary.method);
        results.push(stage_contact_sheet(&sheet, &title, &contacts)?);
    }
    results.push(stage_json(&json, &summary)?);
    earlier.replace(results)?;
    each.tell(&summary, |out| {
        each.headline(out, &summary, found)?;
        for query in 0..found.scores.queries().min(QUERIES) {
            print(out, &board.ranking(query, SHOWN.min(args.top_k)))?;
        }
        let sheet = if contacts.is_empty() { "" } else { "scores.png, " };
        writeln!(out, "\nEverything: {scores_name}, topk.jsonl, {sheet}{summary_name} in {}", folder.display())
    })
}

fn attribute(
    args: &AttributeArgs,
    each: &Each<'_>,
    before: Option<Influence>,
    scores_name: &str,
) -> Result<Influence, CliError> {
    let (folder, Settings { device, .. }) = (&each.folder, &each.settings);
    let mut scores = ScoreFile::at(&folder.join(scores_name))?;
    scores.rank_by = each.settings.rank_by;
    let mut earlier = each.earlier(&["scores.", POSITIONS]);
    let mut found = match before {
        None => each.run.attribute(device, &mut observer())?,
        Some(before) => each.run.attribute_again(before, device, &mut observer())?,
    };
    let spread = each.judge(&mut found)?;
    let (contacts, mut outputs) = (found.board().contacts(SHEET_QUERIES, SHEET_ROWS)?, each.outputs());
    if !contacts.is_empty() {
        earlier.writes(SHEET, &mut outputs);
    }
    let summary = Summary::new("attribute", &each.settings, &found, spread.as_ref(), outputs);
    let summary_name = each.summary_name();
    let (topk, json, beside) = (folder.join("topk.jsonl"), folder.join(&summary_name), scores.metadata_file());
    let (found_scores, bars) = (&found.attribution.scores, spread.as_ref().map(bars));
    let mut results = scores.stage(&beside, found_scores, bars, &found.ids(), &summary.metadata())?;
    results.push(found.stage_rankings(&topk, args.top_k)?);
    let (sheet, positions) = (folder.join(SHEET), folder.join(POSITIONS));
    if args.positions {
        results.push(found.stage_positions(&positions)?);
    }
    if !contacts.is_empty() {
        let title = format!("{}: training rows by {}", found.files.name, each.settings.spec);
        results.push(stage_contact_sheet(&sheet, &title, &contacts)?);
    }
    results.push(stage_json(&json, &summary)?);
    earlier.replace(results)?;
    each.tell(&summary, |out| {
        head(out, &summary.scoring, summary.blocks(), each.seconds())?;
        details(out, &found)?;
        if let Some(spread) = &spread {
            let Stability { spearman, top, overlap } = spread.stability;
            let seeds = found.repeats.len();
            let spearman = spearman.map_or("–".into(), |found| format!("{found:.3}"));
            let overlap = 100.0 * overlap;
            writeln!(out, "between two of {seeds} seeds: Spearman {spearman}, {overlap:.0} % of the {top} highest")?;
        }
        let queries = found.attribution.scores.queries();
        for query in 0..queries.min(QUERIES) {
            print(out, &found.ranking(query, SHOWN.min(args.top_k)))?;
        }
        if queries > QUERIES {
            writeln!(out, "\n… and {}", counted(queries - QUERIES, "more query", "more queries"))?;
        }
        let more = [(!contacts.is_empty(), SHEET), (args.positions, POSITIONS)];
        let more: String = more.iter().filter(|(is, _)| *is).map(|(_, name)| format!("{name}, ")).collect();
        writeln!(out, "\nEverything: {scores_name}, topk.jsonl, {more}{summary_name} in {}", folder.display())
    })?;
    Ok(found)
}

fn print(out: &mut dyn Write, ranking: &Ranking<'_>) -> io::Result<()> {
    let named = |label: &Option<&str>| label.map_or_else(String::new, |label| format!(" ({})", name(label)));
    match &ranking.query {
        RankedQuery::Each { query_id, text, label } => {
            writeln!(out, "\nquery {}{}: {}", name(&query_id.to_string()), named(label), excerpt(text))?;
        }
        RankedQuery::Mean { mean_of, .. } => {
            writeln!(out, "\nthe mean of {}", counted(*mean_of, "query", "queries"))?;
        }
    }
    let lists = [
        ("most influential", &ranking.most_influential),
        ("most helpful", &ranking.most_helpful),
        ("most harmful", &ranking.most_harmful),
        ("least helpful", &ranking.least_helpful),
    ];
    let rows = lists.iter().flat_map(|(_, rows)| rows.iter());
    let mut texts = excerpts(&rows.map(|row| row.text).collect::<Vec<_>>()).into_iter();
    for (title, rows) in lists.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        writeln!(out, "  {title}")?;
        for (ScoredRow { train_id, score, label, .. }, text) in rows.iter().zip(&mut texts) {
            writeln!(out, "  {score:>+10.3e}  {}{}: {text}", name(&train_id.to_string()), named(label))?;
        }
    }
    Ok(())
}
