//! `hyperinf sweep`: the same scores at many dampings, how stable their ranking is, and which damping to take.

mod figures;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use hyperinf::curvature::Damping;
use hyperinf::eval::{Agreement, DampingConfig, DampingStudy, agreements, known_bad, study_dampings};
use hyperinf::scoring::{Attribution, Method, Normalisation, Options, Scores};
use hyperinf::store::{self, GradientPair, OutputFolder, Staged, check_range};

use crate::agreement::top_k;
use crate::args::{GIB, QueryModeArg, SideArg, SweepArgs};
use crate::config;
use crate::error::{CliError, Input, Usage};
use crate::progress::{Progress, warn, warn_of_disk};
use crate::score::{Settings, flat, note};
use crate::to_stdout;
use report::Summary;

const FILES: [&str; 6] = ["sweep.csv", "scores.parquet", "sweep.png", "spearman.png", config::FILE, "summary.json"];

/// The choices that are swept with the damping.
#[derive(Clone, Copy)]
struct Variant {
    side: Option<SideArg>,
    /// The rank of a projection.
    rank: Option<u32>,
}

/// The scores of one variant at every damping.
struct SideSweep {
    variant: Variant,
    settings: Settings,
    found: Vec<Attribution>,
    seconds: f64,
    /// Agreement with neighbours and with the dot product, which is of projected gradients if they are projected.
    study: DampingStudy,
}

/// The results of all variants.
struct Sweep<'a> {
    args: &'a SweepArgs,
    top_k: usize,
    /// From small to large.
    dampings: &'a [f64],
    sides: Vec<SideSweep>,
    /// Rank correlations of all scores with all, side by side.
    all: Vec<Vec<Agreement>>,
    /// The side of the recommended damping.
    chosen: Option<usize>,
    seconds: f64,
}

/// Scores at every damping, compares the scores, and writes the results.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind.
pub(crate) fn run(args: &SweepArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let dampings = dampings(args)?;
    if !(args.stable > 0.0 && args.stable <= 1.0) {
        return Err(Usage::Value { flag: "--stable", expected: "above 0 and at most 1", value: args.stable }.into());
    }
    let settings = settings(args)?;
    let mut inputs = vec![args.train_gradients.as_path(), args.query_gradients.as_path()];
    inputs.extend(args.known_bad.as_deref());
    inputs.extend(args.ids.inputs());
    let folder = OutputFolder::of_command("sweep", &args.out, &FILES, &inputs)?;
    let mut pair = GradientPair::open(&args.train_gradients, &args.query_gradients)?;
    pair.memory = args.memory.map(|gib| gib * GIB);
    let top_k = top_k(args.top_k, pair.train.samples())?;
    let ids = args.ids.read(pair.train.samples(), pair.query.file.samples(), args.query_mode)?;
    let known = |path: &PathBuf| {
        known_bad(path, pair.train.samples()).map_err(|source| {
            let (what, path) = ("samples known to be bad", path.clone());
            CliError::from(Input::File { what, path, source: Box::new(source) })
        })
    };
    let bad = args.known_bad.as_ref().map(known).transpose()?;
    let compared = DampingConfig { top: top_k, stable: args.stable, bad: bad.as_deref() };
    let queries = if args.query_mode == QueryModeArg::Mean { 1 } else { pair.query.file.samples() };
    warn_of_disk(&args.out, settings.len() * dampings.len() * queries * pair.train.samples(), false);
    let mut dot = plain(&settings[0].1, &pair)?;
    let mut progress = Progress::new("variants and blocks", (settings.len() * pair.train.blocks().len()) as u64);
    let mut done = 0;
    let mut sides = Vec::new();
    for (variant, settings) in settings {
        let began = Instant::now();
        if settings.projection.is_some() {
            pair.project(settings.projection, &settings.device)?;
            note(&pair, settings.projection).iter().for_each(|note| warn(note));
            dot = plain(&settings, &pair)?;
        }
        let all: Vec<Damping> = dampings.iter().map(|&value| damping(args.values().1, value)).collect();
        let mut count = || {
            done += 1;
            progress.at(done, || settings.method.clone());
        };
        let found = store::sweep(&pair, &settings.options, &all, &settings.device, &mut count)?;
        found.iter().try_for_each(|attribution| check_range(&attribution.scores))?;
        let seconds = began.elapsed().as_secs_f64();
        let study = study_dampings(&dampings, &found, &dot, &compared)?;
        sides.push(SideSweep { variant, settings, found, seconds, study });
    }
    progress.finish();
    let scores: Vec<&Scores> = sides.iter().flat_map(|side| side.found.iter().map(|a| &a.scores)).collect();
    let all = agreements(&scores, top_k)?;
    let chosen = choose(&sides);
    let sweep = Sweep { args, top_k, dampings: &dampings, sides, all, chosen, seconds: began.elapsed().as_secs_f64() };
    let summary = Summary::new(&sweep, &pair)?;
    let [csv, scores, lines, map, config, json] = FILES.map(|name| folder.file(name));
    let cells = summary.table();
    let staged: [Staged<'_>; 6] = [
        hyperinf::store::stage_csv(&csv, &cells.table())?,
        report::stage_scores(&scores, &sweep, &summary, &ids)?,
        figures::stage_lines(&lines, &sweep)?,
        figures::stage_map(&map, &sweep)?,
        config::stage(&config)?,
        hyperinf::store::stage_json(&json, &summary)?,
    ];
    store::publish(staged.into(), &[])?;
    flat(&pair, sweep.sides.iter().map(|side| &side.settings)).iter().for_each(|note| warn(note));
    Settings::notes(sweep.sides.iter().map(|side| &side.settings)).iter().for_each(|note| warn(note));
    to_stdout(|out| if args.json { summary.json(out) } else { summary.text(&args.out, out) })
}

/// The dampings, from small to large, each once.
fn dampings(args: &SweepArgs) -> Result<Vec<f64>, CliError> {
    let (values, absolute) = args.values();
    let flag = if args.damping_absolute.is_empty() { "--damping" } else { "--damping-absolute" };
    for &value in values {
        damping(absolute, value).validate().map_err(|_| Usage::Damping { flag, value })?;
    }
    let mut dampings = values.to_vec();
    dampings.sort_by(f64::total_cmp);
    dampings.dedup();
    if dampings.len() < 2 {
        let value = dampings.len() as f64;
        return Err(Usage::Value { flag, expected: "at least two numbers that differ", value }.into());
    }
    Ok(dampings)
}

fn damping(absolute: bool, value: f64) -> Damping {
    if absolute { Damping::Absolute(value) } else { Damping::Relative(value) }
}

/// Each value once; a single `None` for an empty list.
fn each<T: Copy + PartialEq>(values: &[T]) -> Vec<Option<T>> {
    let mut found: Vec<Option<T>> = Vec::new();
    for &value in values {
        if !found.contains(&Some(value)) {
            found.push(Some(value));
        }
    }
    if found.is_empty() { vec![None] } else { found }
}

/// The method once per side and rank, with a solver for many dampings.
fn settings(args: &SweepArgs) -> Result<Vec<(Variant, Settings)>, CliError> {
    let one = |variant| {
        let Variant { side, rank } = variant;
        let scoring = args.scoring(side, rank);
        scoring.shared.project.check_seed(false)?;
        let mut settings = Settings::new(&scoring, args.query_mode)?.of_stored()?;
        let refused = |second, reason| {
            Err(Usage::Combination { first: format!("--method {}", settings.method), second, reason }.into())
        };
        if !settings.spec.method.has_curvature() {
            return refused("a sweep", "the method has no curvature, and so no damping");
        }
        if side.is_some() && !settings.spec.method.has_side() {
            return refused("--sides", "only a generalized Fisher matrix, as of hyperinf, sums over a side");
        }
        settings.options.method = settings.spec.for_sweep().options()?.method;
        Ok((variant, settings))
    };
    let ranks = each(&args.project);
    each(&args.sides)
        .into_iter()
        .flat_map(|side| ranks.iter().map(move |&rank| Variant { side, rank }))
        .map(one)
        .collect()
}

/// The scores by the plain dot product.
fn plain(settings: &Settings, pair: &GradientPair) -> Result<Scores, CliError> {
    let options = Options {
        method: Method::Identity,
        normalisation: Normalisation::None,
        merged: false,
        ..settings.options.clone()
    };
    Ok(store::score(pair, None, &options, &settings.device)?.scores)
}

/// The variant whose advice counts: the one of the highest AUC, of equals the first.
fn choose(sides: &[SideSweep]) -> Option<usize> {
    let value = |side: &SideSweep| side.study.advice.as_ref().and_then(|advice| side.study.auc[advice.place]);
    let known = sides.iter().enumerate().filter_map(|(place, side)| Some((place, value(side)?)));
    known.rev().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
}
