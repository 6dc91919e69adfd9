//! `hyperinf score`: from files of per-sample gradients to scores.

mod checkpoints;
mod ids;
mod projection;
mod report;
mod settings;
mod summary;
mod variants;

use std::path::Path;
use std::time::Instant;

use hyperinf::eval::Spread;
use hyperinf::scoring::{Attribution, BlockReport};

use crate::args::{QueryModeArg, ScoreArgs};
use crate::config;
use crate::error::{CliError, Numbers};
use crate::progress;
use crate::team;
use crate::to_stdout;
use hyperinf::data::StoredScoring;
use hyperinf::store::{Checkpoint, ErrorBars, KeptScores, ScoreFile, StoreError};
pub(crate) use projection::{flags, flat, note};
pub(crate) use report::{counted, head};
pub(crate) use settings::Settings;
use summary::Summary;
pub(crate) use summary::{Input, Scoring, entries, input};
use variants::{Grouped, Variants};

/// The residual above which an iteration with a fixed start has inverted too little.
const POOR: f64 = 0.1;
/// The number of blocks that are warned about by name; the others are only counted.
const WARNED: usize = 5;

/// Scores, writes the output, and prints a summary.
///
/// Flags are checked before any file is read, and headers of files before their numbers.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind.
pub(crate) fn run(args: &ScoreArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let variants = Variants::new(args)?;
    let settings = Settings::new(&args.scoring, variants.query_mode())?.of_stored()?;
    let options = variants.options(&settings.options)?;
    let scoring = StoredScoring {
        options,
        projections: variants.projections(settings.projection),
        device_name: settings.device_name.clone(),
        crew: team::crew(),
        ..StoredScoring::default()
    };
    let open = || -> Result<Vec<Checkpoint>, CliError> {
        let mut moments = variants.open()?;
        moments.iter_mut().for_each(|moment| moment.pair.memory = args.scoring.memory());
        Ok(moments)
    };
    if team::helps() {
        return Ok(scoring.assist(&open()?, &settings.device)?);
    }
    let mut output = args.output.as_deref().map(|path| ScoreFile::new(path, &variants.inputs())).transpose()?;
    output.iter_mut().for_each(|output| output.rank_by = settings.rank_by);
    let mut moments = open()?;
    let first = &moments[0].pair;
    variants.check_projection(first, settings.projection)?;
    note(first, settings.projection).iter().for_each(|note| progress::warn(note));
    flat(first, [&settings].into_iter()).iter().for_each(|note| progress::warn(note));
    let (queries, samples) = (first.query.file.samples(), first.train.samples());
    let groups = variants.groups(samples)?;
    let ids = args.ids.read(samples, queries, variants.query_mode())?;
    let rows = if variants.query_mode() == QueryModeArg::Mean { 1 } else { queries };
    let columns = groups.as_ref().map_or(samples, Grouped::count);
    let folder = args.output.as_deref().map(|path| path.parent().unwrap_or(Path::new(""))).map(Path::to_owned);
    let spill = folder.clone().unwrap_or_else(std::env::temp_dir);
    let spill = if spill.as_os_str().is_empty() { Path::new(".").to_owned() } else { spill };
    let failed = |error| CliError::from(StoreError::output(args.output.as_deref().unwrap_or(&spill), error));
    let mut kept = KeptScores::new([rows, columns], scoring.at_once, &spill).map_err(failed)?;
    if let Some(folder) = &folder {
        progress::warn_of_disk(folder, rows * columns, kept.is_spilled());
    }
    let check = |found: &Attribution| if args.scoring.strict { check_converged(found) } else { Ok(()) };
    let (attribution, outcome) = if variants.repeats() {
        let mut score = |which| scoring.score(which, &mut moments, &settings.device, check);
        let mut attribution = score(0)?;
        let mut all = std::mem::take(&mut attribution.scores);
        for other in 1..scoring.projections.len() {
            let found = score(other)?;
            all.rows.extend(found.scores.rows);
            attribution.keep_worst(found.blocks);
        }
        (attribution, variants.spread(all, queries, ids, groups)?)
    } else {
        let attribution = scoring.score_in_parts(0, &mut moments, &settings.device, check, |more| {
            let more = match &groups {
                Some(groups) => groups.pooled(&more)?,
                None => more,
            };
            kept.push(more).map_err(failed)
        })?;
        (attribution, variants.outcome(kept, queries, ids, groups))
    };
    let summary = Summary::new(&settings, &moments, &attribution, &outcome)?;
    if let Some(output) = &output {
        let (beside, bars) = (output.metadata_file(), outcome.spread.as_ref().map(bars));
        let staged = output.stage(&beside, &outcome.scores, bars, &outcome.ids, &summary.metadata())?;
        config::place(&output.path, staged)?;
    }
    team::finish_file(args.output.as_deref())?;
    warn(&settings, &attribution);
    let seconds = began.elapsed().as_secs_f64();
    let report = report::Report { summary: &summary, outcome: &outcome, output: args.output.as_deref(), seconds };
    to_stdout(|out| if args.scoring.json { report.json(out) } else { report.text(out) })
}

/// The error bars of a spread.
pub(crate) fn bars(spread: &Spread) -> ErrorBars<'_> {
    ErrorBars { std: &spread.std, low: &spread.low, high: &spread.high }
}

pub(crate) fn check_converged(attribution: &Attribution) -> Result<(), CliError> {
    let blocks = attribution.not_converged();
    let Some(worst) = blocks.first() else { return Ok(()) };
    Err(Numbers::NotConverged {
        blocks: blocks.len(),
        of: attribution.blocks.len(),
        worst: worst.block.name.clone(),
        residual: worst.residual,
        tolerance: worst.tolerance.unwrap_or_default(),
    }
    .into())
}

/// Warns of flags without effect.
pub(crate) fn warn_of_choices(settings: &Settings) {
    Settings::notes([settings].into_iter()).iter().for_each(|note| progress::warn(note));
}

/// Warns on standard error about problems that the scores do not show.
pub(crate) fn warn(settings: &Settings, attribution: &Attribution) {
    let mut notes = Settings::notes([settings].into_iter());
    let blocks = attribution.not_converged();
    for report in blocks.iter().take(WARNED) {
        notes.push(format!(
            "block `{}` did not reach the solver's tolerance: relative residual {:.2e} after {} steps, expected at most {:.2e}",
            report.block.name,
            report.residual,
            report.iterations,
            report.tolerance.unwrap_or_default()
        ));
    }
    if blocks.len() > WARNED {
        notes.push(format!("{} more blocks did not reach it", blocks.len() - WARNED));
    }
    let coarse = attribution.blocks.iter().filter(|block| !block.is_precise());
    if let Some(report) = coarse.max_by(|a, b| a.rounding.total_cmp(&b.rounding)) {
        notes.push(format!(
            "block `{}`: rounding in the curvature's sum may change scores by up to {:.0e} of their scale, which no residual shows; more --damping makes it smaller",
            report.block.name, report.rounding
        ));
    }
    let started = attribution.blocks.iter().filter(|b| b.plan.solver == "schulz-authors" && b.residual > POOR);
    if let Some(report) = started.max_by(|a, b| a.residual.total_cmp(&b.residual)) {
        notes.push(format!(
            "block `{}`: the published start leaves a residual of {:.1e}: small eigenvalues are not inverted, and the scores are near a dot product's",
            report.block.name, report.residual
        ));
    }
    let zero: Vec<&BlockReport> = attribution.blocks.iter().filter(|b| b.lambda.is_none()).collect();
    if let Some(first) = zero.first() {
        notes.push(format!(
            "all training gradients of {} of {} blocks are zero (the first is `{}`): they add nothing to any score",
            zero.len(),
            attribution.blocks.len(),
            first.block.name
        ));
    }
    notes.iter().for_each(|note| progress::warn(note));
}
