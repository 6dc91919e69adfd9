//! `hyperinf select`: the training rows that help most.

use hyperinf::data::Influence;
use hyperinf::store::stage_json;
use serde_json::json;

use crate::args::{QueryModeArg, SelectArgs};
use crate::error::CliError;
use crate::influence::{Each, Job, Summary, with_ending_of};
use crate::progress::observer;
use crate::score::{Settings, head};

/// Scores and selects training rows, and writes them and a summary.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind, only hidden files from which the same run resumes.
pub(crate) fn run(args: &SelectArgs) -> Result<(), CliError> {
    let name = with_ending_of("selected", &args.influence.train);
    let outputs = [name.as_str(), "ranking.csv"];
    let (query, mode) = (&args.validation, QueryModeArg::Mean);
    let job =
        Job { command: "select", args: &args.influence, query, mode, seeds: None, positions: None, outputs: &outputs };
    job.each(|each, before| select(args, each, before, &name))
}

fn select(args: &SelectArgs, each: &Each<'_>, before: Option<Influence>, name: &str) -> Result<Influence, CliError> {
    let (folder, Settings { device, .. }) = (&each.folder, &each.settings);
    let earlier = each.earlier(&["selected."]);
    let found = match before {
        None => each.run.select(args.keep.0, device, &mut observer()),
        Some(before) => each.run.select_again(before, args.keep.0, device, &mut observer()),
    };
    let mut found = found.map_err(|error| CliError::amount("--keep", error))?;
    each.judge(&mut found.influence)?;
    let train = &found.influence.train;
    let mut more = each.outputs();
    let selected: Vec<String> = found.selected.iter().map(|&sample| train.id(sample).to_string()).collect();
    more.insert("selected".into(), json!(selected));
    let summary = Summary::new("select", &each.settings, &found.influence, None, more);
    let (path, json, kept) = (folder.join(name), folder.join(each.summary_name()), found.kept());
    let table = folder.join("ranking.csv");
    earlier.replace(vec![train.stage(&kept, &path)?, found.stage_table(&table)?, stage_json(&json, &summary)?])?;
    each.tell(&summary, |out| {
        head(out, &summary.scoring, summary.blocks(), each.seconds())?;
        writeln!(out, "selected  {} of {} rows: {}", kept.len(), train.data.total, path.display())?;
        writeln!(out, "scores    of every row: ranking.csv")
    })?;
    Ok(found.influence)
}
