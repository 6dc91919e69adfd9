//! `hyperinf detect`: training rows that look wrong.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Instant;

use hyperinf::scoring::{Amount, detect};
use serde_json::json;

use crate::args::{AmountArg, DetectArgs, QueryModeArg};
use crate::error::CliError;
use crate::influence::{Job, Scored, Summary, with_ending_of};
use crate::score::head;
use crate::text::excerpt;
use crate::to_stdout;
use hyperinf::store::{self, Column, Table, check_range, stage_csv, stage_json};

/// Rows that are shown.
const SHOWN: usize = 10;

/// Scores, ranks, and writes what was found.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind, but for hidden files from which the same run goes on.
pub fn run(args: &DetectArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let folder = &args.influence.out;
    let cleaned = with_ending_of("cleaned", &args.influence.train);
    let mut outputs = vec!["suspicious.csv", "summary.json"];
    if args.remove.is_some() {
        outputs.push(cleaned.to_str().unwrap_or("cleaned"));
    }
    let job = Job {
        args: &args.influence,
        query: &args.validation,
        mode: QueryModeArg::Mean,
        seeds: None,
        outputs: &outputs,
    };
    let earlier = job.earlier("detect", "cleaned.");
    let scored = job.run(|rows| args.remove.map_or(Ok(()), |amount| check(amount, "--remove", rows)))?;
    let (options, device) = (&scored.settings.options, &scored.settings.device);
    let influence = store::self_influence(&scored.pair, scored.known.as_deref(), options, device)?;
    check_range(&scored.attribution.scores)?;
    let scores = &scored.attribution.scores.rows[0];
    let order = detect(scores, Amount::Share(1.0)).map_err(CliError::Score)?;

    let mut more = job.outputs();
    let mut kept = None;
    if let Some(AmountArg(amount)) = args.remove {
        let removed = detect(scores, amount).map_err(CliError::Score)?;
        let rows: BTreeSet<usize> = removed.iter().map(|&sample| scored.train.data.rows[sample].row).collect();
        more.insert("removed".into(), json!(removed.iter().map(|&s| scored.train.ids().text(s)).collect::<Vec<_>>()));
        let others = scored.train.data.rows.iter().map(|row| row.row).filter(|row| !rows.contains(row));
        kept = Some(others.collect::<BTreeSet<usize>>());
    }
    let summary = Summary::new("detect", &scored, began.elapsed().as_secs_f64(), more);
    let (suspicious, told, cleaned) =
        (folder.join("suspicious.csv"), folder.join("summary.json"), folder.join(cleaned));
    let suspicious = write_table(&scored, &order, &influence, |table| Ok(stage_csv(&suspicious, table)?))?;
    let told = stage_json(&told, &summary)?;
    if let Some(kept) = &kept {
        scored.train.data.stage_rows(kept, &cleaned)?.place()?;
    }
    suspicious.place()?;
    told.place()?;
    earlier.remove()?;
    to_stdout(|out| {
        if args.influence.scoring.json {
            serde_json::to_writer_pretty(&mut *out, &summary)?;
            return writeln!(out);
        }
        head(out, &summary.scoring, summary.blocks(), summary.seconds)?;
        text(out, &scored, &order)?;
        if let Some(kept) = &kept {
            writeln!(out, "\n{} of {} rows are kept in {}", kept.len(), scored.train.data.total, cleaned.display())?;
        }
        writeln!(out, "\nEvery row: suspicious.csv; how: summary.json; in {}", folder.display())
    })?;
    scored.settle_gradients(&args.influence)
}

/// Fails if no rows are asked for, or more than there are.
pub(crate) fn check(amount: AmountArg, flag: &'static str, rows: usize) -> Result<(), CliError> {
    let asked = match amount.0 {
        Amount::Count(count) => count,
        Amount::Share(share) => (share * rows as f64).round() as usize,
    };
    if (1..=rows).contains(&asked) { Ok(()) } else { Err(CliError::Amount { flag, asked, rows }) }
}

/// The rows, the most suspicious first.
fn write_table<T>(
    scored: &Scored,
    order: &[usize],
    influence: &[f64],
    write: impl FnOnce(&Table<'_>) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let rows = &scored.train.data.rows;
    let ids = scored.train.ids();
    let texts: Vec<String> = order.iter().map(|&sample| rows[sample].content.text()).collect();
    let real = |values: &[f64]| Column::Real(order.iter().map(|&sample| values[sample] as f32).collect());
    let mut columns = vec![
        ("rank", Column::Whole((1..=order.len() as i64).collect())),
        ("id", ids.column(order.iter().copied())),
        ("text", Column::Text(texts.iter().map(String::as_str).collect())),
    ];
    if scored.labels.is_some() {
        let labels = order.iter().map(|&sample| rows[sample].content.label().unwrap_or_default());
        columns.push(("label", Column::Text(labels.collect())));
    }
    columns.push(("score", real(&scored.attribution.scores.rows[0])));
    columns.push(("training_loss", real(&scored.train.losses)));
    columns.push(("self_influence", real(influence)));
    write(&Table::new(columns))
}

fn text(out: &mut dyn Write, scored: &Scored, order: &[usize]) -> io::Result<()> {
    let ids = scored.train.ids();
    writeln!(out, "\nthe most suspicious rows\n{:>4}  {:>10}  {:>8}  row", "rank", "score", "loss")?;
    for (place, &sample) in order.iter().take(SHOWN).enumerate() {
        let content = &scored.train.data.rows[sample].content;
        let label = content.label().map_or_else(String::new, |label| format!(" ({label})"));
        writeln!(
            out,
            "{:>4}  {:>+10.3e}  {:>8.3}  {}{label}: {}",
            place + 1,
            scored.attribution.scores.rows[0][sample],
            scored.train.losses[sample],
            ids.text(sample),
            excerpt(&content.text())
        )?;
    }
    Ok(())
}
