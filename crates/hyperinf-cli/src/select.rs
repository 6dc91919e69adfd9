//! `hyperinf select`: the training rows that help most.

use std::collections::BTreeSet;
use std::time::Instant;

use hyperinf::scoring::select;
use serde_json::json;

use crate::args::{QueryModeArg, SelectArgs};
use crate::detect::check;
use crate::error::CliError;
use crate::influence::{Job, Summary, with_ending_of};
use crate::score::head;
use crate::to_stdout;
use hyperinf::store::stage_json;

/// Scores, chooses, and writes the chosen rows.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind, but for hidden files from which the same run goes on.
pub fn run(args: &SelectArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let folder = &args.influence.out;
    let name = with_ending_of("selected", &args.influence.train);
    let outputs = [name.to_str().unwrap_or("selected"), "summary.json"];
    let job = Job {
        args: &args.influence,
        query: &args.validation,
        mode: QueryModeArg::Mean,
        seeds: None,
        outputs: &outputs,
    };
    let earlier = job.earlier("select", "selected.");
    let scored = job.run(|rows| check(args.keep, "--keep", rows))?;
    let kept = select(&scored.attribution.scores.rows[0], args.keep.0).map_err(CliError::Score)?;
    let rows: BTreeSet<usize> = kept.iter().map(|&sample| scored.train.data.rows[sample].row).collect();
    let ids = scored.train.ids();
    let mut more = job.outputs();
    more.insert("selected".into(), json!(kept.iter().map(|&s| ids.text(s)).collect::<Vec<_>>()));
    let summary = Summary::new("select", &scored, began.elapsed().as_secs_f64(), more);
    let (selected, told) = (folder.join(&name), folder.join("summary.json"));
    let chosen = scored.train.data.stage_rows(&rows, &selected)?;
    let told = stage_json(&told, &summary)?;
    chosen.place()?;
    told.place()?;
    earlier.remove()?;
    to_stdout(|out| {
        if args.influence.scoring.json {
            serde_json::to_writer_pretty(&mut *out, &summary)?;
            return writeln!(out);
        }
        head(out, &summary.scoring, summary.blocks(), summary.seconds)?;
        writeln!(out, "selected  {} of {} rows: {}", rows.len(), scored.train.data.total, selected.display())
    })?;
    scored.settle_gradients(&args.influence)
}
