//! `hyperinf compare`: every method on the same gradients.

mod memory;
mod report;

use std::time::Instant;

use hyperinf::eval::{Agreement, agreements};
use hyperinf::scoring::{Attribution, MethodSpec};

use crate::agreement::top_k;
use crate::args::CompareArgs;
use crate::config;
use crate::error::{CliError, Numbers, Usage};
use crate::figure::{HeatMap, stage_heat_map};
use crate::progress::{Progress, warn};
use crate::score::{Settings, check_converged, flat, note};
use crate::to_stdout;
use hyperinf::store::{self, GradientPair, OutputFolder, StoreError, stage_csv, stage_json};
use memory::{Meter, Peak};
use report::Summary;

/// The method that all others are compared with, if it could be computed.
const JUDGE: &str = "exact";

/// The files that are written, the summary last.
const FILES: [&str; 5] = ["methods.csv", "pairs.csv", "spearman.png", config::FILE, "summary.json"];

/// The result of one method.
struct Outcome {
    settings: Settings,
    /// The estimated memory.
    needed_gib: f64,
    result: Result<Computed, String>,
}

struct Computed {
    attribution: Attribution,
    seconds: f64,
    /// `None` where the system does not report it.
    peak: Option<Peak>,
}

impl Outcome {
    fn computed(&self) -> Option<&Computed> {
        self.result.as_ref().ok()
    }
}

/// The results of all methods.
struct Comparison<'a> {
    args: &'a CompareArgs,
    top_k: usize,
    outcomes: Vec<Outcome>,
    /// Of the methods that were computed, in their order.
    agreements: Vec<Vec<Agreement>>,
    limit_gib: Option<f64>,
    seconds: f64,
}

impl Comparison<'_> {
    fn computed(&self) -> impl Iterator<Item = (&str, &Computed)> {
        self.outcomes.iter().filter_map(|o| Some((o.settings.method.as_str(), o.computed()?)))
    }
}

/// Scores with every method, compares the scores, and writes the results.
///
/// # Errors
///
/// See [`CliError`]. A method that cannot be computed is left out with its reason, unless none can or with `--strict`.
/// No output is left behind.
pub(crate) fn run(args: &CompareArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let settings = settings(args)?;
    if args.memory.is_some_and(|gib| gib.is_nan() || gib <= 0.0) {
        let value = args.memory.unwrap_or_default();
        return Err(Usage::Value { flag: "--memory", expected: "positive", value }.into());
    }
    let inputs = [args.train_gradients.as_path(), args.query_gradients.as_path()];
    let folder = OutputFolder::of_command("compare", &args.out, &FILES, &inputs)?;
    let mut pair = GradientPair::open(&args.train_gradients, &args.query_gradients)?;
    // Methods that need more than the limit are left out, one by one.
    pair.memory = Some(f64::INFINITY);
    if let Some(first) = settings.first() {
        pair.project(first.projection, &first.device)?;
        note(&pair, first.projection).iter().for_each(|note| warn(note));
    }
    let top_k = top_k(args.top_k, pair.train.samples())?;
    let limit_gib = memory::limit(args.memory);
    let outcomes = score_all(settings, &pair, limit_gib, args.strict)?;
    let computed: Vec<_> = outcomes.iter().filter_map(|o| Some(&o.computed()?.attribution.scores)).collect();
    let agreements = agreements(&computed, top_k)?;
    let comparison =
        Comparison { args, top_k, outcomes, agreements, limit_gib, seconds: began.elapsed().as_secs_f64() };
    let summary = Summary::new(&comparison, &pair)?;
    write(&folder, &comparison, &summary)?;
    flat(&pair, comparison.outcomes.iter().map(|outcome| &outcome.settings)).iter().for_each(|note| warn(note));
    Settings::notes(comparison.outcomes.iter().map(|outcome| &outcome.settings)).iter().for_each(|note| warn(note));
    to_stdout(|out| if args.json { summary.json(out) } else { summary.text(&args.out, out) })
}

/// The methods, each once, with the options that they share.
fn settings(args: &CompareArgs) -> Result<Vec<Settings>, CliError> {
    args.scoring().shared.project.check_seed(false)?;
    let specs = MethodSpec::list(&args.methods, &MethodSpec::all())?;
    specs.into_iter().map(|spec| Settings::of(spec, &args.scoring(), args.query_mode)?.of_stored()).collect()
}

fn score_all(
    settings: Vec<Settings>,
    pair: &GradientPair,
    limit_gib: Option<f64>,
    strict: bool,
) -> Result<Vec<Outcome>, CliError> {
    let mut meter = Meter::new();
    let mut progress = Progress::new("methods", settings.len() as u64);
    let mut outcomes = Vec::with_capacity(settings.len());
    for (place, settings) in settings.into_iter().enumerate() {
        progress.at(place as u64, || settings.method.clone());
        let needed_gib = memory::needed(&settings, pair);
        let result = match limit_gib {
            Some(limit) if needed_gib > limit => {
                Err(format!("it would take about {needed_gib:.2} GiB of memory, more than the {limit:.2} allowed"))
            }
            _ => score(&settings, pair, &mut meter)?,
        };
        if strict {
            match &result {
                Ok(computed) => check_converged(&computed.attribution)?,
                Err(reason) => {
                    return Err(Numbers::LeftOut { method: settings.method.clone(), reason: reason.clone() }.into());
                }
            }
        }
        outcomes.push(Outcome { settings, needed_gib, result });
    }
    progress.finish();
    match outcomes.first() {
        Some(Outcome { settings, result: Err(reason), .. }) if outcomes.iter().all(|o| o.result.is_err()) => {
            Err(Numbers::NoneComputed {
                methods: outcomes.len(),
                first: settings.method.clone(),
                reason: reason.clone(),
            }
            .into())
        }
        _ => Ok(outcomes),
    }
}

/// One method's scores, or the reason why only this method has none; an error of the input is returned.
fn score(settings: &Settings, pair: &GradientPair, meter: &mut Meter) -> Result<Result<Computed, String>, CliError> {
    meter.begin();
    let began = Instant::now();
    match store::score(pair, None, &settings.options, &settings.device) {
        Ok(attribution) => {
            let seconds = began.elapsed().as_secs_f64();
            Ok(Ok(Computed { attribution, seconds, peak: meter.peak() }))
        }
        // A bad input fails every method; any other error concerns this method alone.
        Err(StoreError::Score(error)) => Ok(Err(CliError::from(error).causes())),
        Err(error) => match CliError::from(error) {
            error @ CliError::Numbers(_) => Ok(Err(error.causes())),
            error => Err(error),
        },
    }
}

fn write(folder: &OutputFolder, comparison: &Comparison<'_>, summary: &Summary) -> Result<(), CliError> {
    let (of_methods, of_pairs) = (summary.methods_table(), summary.pairs_table());
    let [methods, pairs, picture, config, json] = FILES.map(|n| folder.file(n));
    let methods = stage_csv(&methods, &of_methods.table())?;
    let pairs = stage_csv(&pairs, &of_pairs.table())?;
    let names: Vec<String> = comparison.computed().map(|(name, _)| name.to_owned()).collect();
    let cells: Vec<Vec<Option<f64>>> =
        comparison.agreements.iter().map(|row| row.iter().map(|a| a.spearman).collect()).collect();
    let title = format!("Rank correlation (Spearman) between methods, {}", summary.setting());
    let picture = stage_heat_map(&picture, &HeatMap { title: &title, names: &names, cells: &cells })?;
    let json = stage_json(&json, summary)?;
    Ok(store::publish(vec![methods, pairs, picture, config::stage(&config)?, json], &[])?)
}
