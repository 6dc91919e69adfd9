//! `hyperinf select`: the training rows that help most.

use std::time::Instant;

use hyperinf::store::stage_json;
use serde_json::json;

use crate::args::{QueryModeArg, SelectArgs};
use crate::error::CliError;
use crate::influence::{Job, Summary, summary_name, with_ending_of};
use crate::progress::observer;
use crate::score::head;
use crate::to_stdout;

/// Scores and selects training rows, and writes them and a summary.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind, only hidden files from which the same run resumes.
pub(crate) fn run(args: &SelectArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let folder = &args.influence.out;
    let name = with_ending_of("selected", &args.influence.train);
    let summary_name = summary_name(folder, "select");
    let outputs = [name.as_str(), &summary_name];
    let (query, mode) = (&args.validation, QueryModeArg::Mean);
    let job = Job { args: &args.influence, query, mode, seeds: None, outputs: &outputs };
    let earlier = job.earlier("select", "selected.");
    let (settings, run) = job.run()?;
    let found = run.select(args.keep.0, &settings.device, &mut observer());
    let mut found = found.map_err(|error| CliError::amount("--keep", error))?;
    job.judge(&settings, &mut found.influence)?;
    let (train, seconds) = (&found.influence.train, began.elapsed().as_secs_f64());
    let mut more = job.outputs();
    let selected: Vec<String> = found.selected.iter().map(|&sample| train.id(sample).to_string()).collect();
    more.insert("selected".into(), json!(selected));
    let summary = Summary::new("select", &settings, &found.influence, None, more);
    let (path, json, kept) = (folder.join(&name), folder.join(&summary_name), found.kept());
    earlier.replace(vec![train.stage(&kept, &path)?, stage_json(&json, &summary)?])?;
    to_stdout(|out| {
        if args.influence.scoring.json {
            serde_json::to_writer_pretty(&mut *out, &summary)?;
            return writeln!(out);
        }
        head(out, &summary.scoring, summary.blocks(), seconds)?;
        writeln!(out, "selected  {} of {} rows: {}", kept.len(), train.data.total, path.display())
    })?;
    job.settle_gradients(found.influence)
}
