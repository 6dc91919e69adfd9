//! `hyperinf detect`: training rows that look wrong.

use std::io::{self, Write};
use std::path::Path;

use hyperinf::data::{Detection, Influence, Prediction, Ranked, ScoredRow, ShownRow};
use hyperinf::store::{Staged, stage_json};
use serde_json::json;

use crate::args::{DetectArgs, QueryModeArg, RankByArg};
use crate::error::{CliError, Usage};
use crate::figure::stage_picture_lists;
use crate::influence::{Each, Job, RowsSummary, Summary, details, with_ending_of};
use crate::progress::observer;
use crate::score::{Settings, head};
use crate::terminal::name;
use crate::text::excerpts;

/// Rows that are printed.
const SHOWN: usize = 10;

/// The most suspicious rows with images, and their number.
const SHEET: &str = "suspicious.png";
const SHEET_ROWS: usize = 24;

/// Scores and ranks the training rows, and writes the ranking, a summary and the remaining rows.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind, only hidden files from which the same run resumes.
pub(crate) fn run(args: &DetectArgs) -> Result<(), CliError> {
    if args.influence.scoring.rank_by == RankByArg::Magnitude {
        let (first, second) = ("detect".into(), "--rank-by magnitude");
        let reason = "wrong labels have the most negative scores, not the largest";
        return Err(Usage::Combination { first, second, reason }.into());
    }
    let cleaned = with_ending_of("cleaned", &args.influence.train);
    let mut outputs = vec!["suspicious.csv"];
    if args.remove.is_some() {
        outputs.push(&cleaned);
    }
    let (query, mode) = (&args.validation, QueryModeArg::Mean);
    let job = Job {
        ensemble: &[],
        command: "detect",
        args: &args.influence,
        query,
        targets: &[],
        mode,
        seeds: None,
        positions: None,
        outputs: &outputs,
    };
    job.each(|each, before| detect(args, each, before, &cleaned), |each, found| baseline(args, each, &found, &cleaned))
}

/// Writes the ranking of a method of rows and the remaining rows.
fn baseline(args: &DetectArgs, each: &Each<'_>, found: &Ranked, cleaned: &str) -> Result<(), CliError> {
    let (folder, summary_name, train) = (&each.folder, each.summary_name(), &found.train);
    let mut earlier = each.earlier(&["cleaned.", SHEET]);
    let without = match args.remove {
        Some(remove) => Some(found.without(remove.0).map_err(|error| CliError::amount("--remove", error))?),
        None => None,
    };
    let mut more = each.outputs();
    if let Some((_, removed)) = &without {
        let removed: Vec<String> = removed.iter().map(|&sample| train.id(sample).to_string()).collect();
        more.insert("removed".into(), json!(removed));
    }
    let shown = found.board().shown(&found.suspicious()?, SHEET_ROWS)?;
    if !shown.is_empty() {
        earlier.writes(SHEET, &mut more);
    }
    let summary = RowsSummary::new("detect", each, found, more);
    let (table, json, cleaned) = (folder.join("suspicious.csv"), folder.join(&summary_name), folder.join(cleaned));
    let mut results = vec![found.stage_suspicious(&table)?];
    if let Some((kept, _)) = &without {
        results.push(train.stage(kept, &cleaned)?);
    }
    let (sheet, pictures) = (folder.join(SHEET), pictures(&shown));
    if !shown.is_empty() {
        results.push(stage_sheet(&sheet, &found.files.name, summary.method, shown)?);
    }
    results.push(stage_json(&json, &summary)?);
    earlier.replace(results)?;
    each.tell(&summary, |out| {
        each.headline(out, &summary, found)?;
        if let Some((kept, _)) = &without {
            writeln!(out, "{} of {} rows are kept in {}", kept.len(), train.data.total, cleaned.display())?;
        }
        writeln!(out, "Every row: suspicious.csv{pictures}; how: {summary_name}; in {}", folder.display())
    })
}

fn detect(args: &DetectArgs, each: &Each<'_>, before: Option<Influence>, cleaned: &str) -> Result<Influence, CliError> {
    let (folder, Settings { device, .. }) = (&each.folder, &each.settings);
    let mut earlier = each.earlier(&["cleaned.", SHEET]);
    let amount = args.remove.map(|remove| remove.0);
    let found = match before {
        None => each.run.detect(amount, device, &mut observer()),
        Some(before) => each.run.detect_again(before, amount, device, &mut observer()),
    };
    let mut found = found.map_err(|error| CliError::amount("--remove", error))?;
    each.judge(&mut found.influence)?;
    let train = &found.influence.train;
    let mut more = each.outputs();
    more.insert("cross_check".into(), json!(found.cross_check));
    if args.remove.is_some() {
        let removed: Vec<String> = found.removed.iter().map(|&sample| train.id(sample).to_string()).collect();
        more.insert("removed".into(), json!(removed));
    }
    let shown = found.influence.board().shown(&found.order, SHEET_ROWS)?;
    if !shown.is_empty() {
        earlier.writes(SHEET, &mut more);
    }
    let summary = Summary::new("detect", &each.settings, &found.influence, None, more);
    let summary_name = each.summary_name();
    let (table, json, cleaned) = (folder.join("suspicious.csv"), folder.join(&summary_name), folder.join(cleaned));
    let (mut results, kept) = (vec![found.stage_table(&table)?], found.kept());
    if args.remove.is_some() {
        results.push(train.stage(&kept, &cleaned)?);
    }
    let (sheet, pictures) = (folder.join(SHEET), pictures(&shown));
    if !shown.is_empty() {
        let (model, method) = (&found.influence.files.name, each.settings.spec.to_string());
        results.push(stage_sheet(&sheet, model, &method, shown)?);
    }
    results.push(stage_json(&json, &summary)?);
    earlier.replace(results)?;
    each.tell(&summary, |out| {
        head(out, &summary.scoring, summary.blocks(), each.seconds())?;
        details(out, &found.influence)?;
        print(out, &found)?;
        if args.remove.is_some() {
            let (kept, total) = (kept.len(), train.data.total);
            writeln!(out, "\n{kept} of {total} rows are kept in {}", cleaned.display())?;
        }
        writeln!(out, "\nEvery row: suspicious.csv{pictures}; how: {summary_name}; in {}", folder.display())
    })?;
    Ok(found.influence)
}

fn stage_sheet<'a>(path: &'a Path, model: &str, method: &str, shown: Vec<ShownRow>) -> Result<Staged<'a>, CliError> {
    let heading = format!("the {} most suspicious, the lowest score first", shown.len());
    stage_picture_lists(path, &format!("{model}: training rows by {method}"), &[(heading, shown)])
}

/// The sheet, for the line that names the outputs.
fn pictures(shown: &[ShownRow]) -> String {
    if shown.is_empty() { String::new() } else { format!("; pictures: {SHEET}") }
}

fn print(out: &mut dyn Write, found: &Detection) -> io::Result<()> {
    let Influence { train, labels, .. } = &found.influence;
    writeln!(out, "model     {}, on the training rows", train.quality(labels.as_ref()))?;
    writeln!(out, "\nthe most suspicious rows\n{:>4}  {:>10}  {:>8}  row", "rank", "score", "loss")?;
    let suspects: Vec<_> = (0..found.order.len().min(SHOWN)).map(|place| found.suspect(place)).collect();
    let texts = excerpts(&suspects.iter().map(|(row, _)| row.text).collect::<Vec<_>>());
    for (place, ((row, Prediction { loss, .. }), text)) in suspects.iter().zip(texts).enumerate() {
        let ScoredRow { train_id, score, label, .. } = row;
        let guess = found.guess(place).map(|(label, probability)| format!("; model: {} {probability:.2}", name(label)));
        let guess = guess.unwrap_or_default();
        let label = label.map_or_else(String::new, |label| format!(" ({}{guess})", name(label)));
        let (rank, train_id) = (place + 1, name(&train_id.to_string()));
        writeln!(out, "{rank:>4}  {score:>+10.3e}  {loss:>8.3}  {train_id}{label}: {text}")?;
    }
    Ok(())
}
