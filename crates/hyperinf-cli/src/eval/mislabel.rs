use std::time::Instant;

use hyperinf::curvature::Damping;
use hyperinf::eval::{auc, detection_rate, mean_and_error};
use hyperinf::scoring::{CurvatureFrom, Options, QueryMode, TaskSource, baselines, self_influence};
use serde_json::{Map, json};

use super::candidate::{Candidate, candidates_at, dampings};
use super::report::{Figure, Report, Row, folder, row};
use super::setup::{Models, Scored, at_least, task};
use crate::args::MislabelArgs;
use crate::error::CliError;

/// The truth's name.
const TRUTH: &str = "mislabel";
/// What the figures are.
const FIGURE: &str = "AUC of the negative score, in [0, 1], by chance 0.5, and shares found, in [0, 1]; higher = better; auc_error: standard error over seeds";
/// The shares of the most suspicious images that are looked at.
const SHARES: [(&str, f64); 3] = [("found_10", 0.1), ("found_20", 0.2), ("found_30", 0.3)];
/// What needs no query and no curvature; beside them there is the self-influence at each damping.
const BASELINES: [&str; 2] = ["training-loss", "gradient-norm"];

pub(super) fn run(args: &MislabelArgs) -> Result<(), CliError> {
    let began = Instant::now();
    at_least("--seeds", args.seeds as usize, 1)?;
    let dampings = dampings(&args.judged, 0.1)?;
    let candidates: Vec<Candidate> = candidates_at(&args.judged, &dampings)?
        .into_iter()
        .map(|candidate| {
            let options = Options { query: QueryMode::Mean, ..candidate.options.clone() };
            Candidate { options, ..candidate }
        })
        .collect();
    let folder = folder(&args.result, TRUTH)?;
    let clean = task(&args.task)?;
    let wrong = (args.noise * clean.train.len() as f64).round();
    if !(wrong >= 1.0 && wrong < clean.train.len() as f64) {
        let expected = "a share that gives some images a wrong label and not all";
        return Err(CliError::Value { flag: "--noise", expected, value: args.noise });
    }
    // One series of figures per baseline and method, one value per seed.
    let undamped = BASELINES.iter().map(|name| (*name, None));
    let baselines: Vec<_> = undamped.chain(dampings.iter().map(|&factor| ("self-influence", Some(factor)))).collect();
    let mut found: Vec<Vec<[f64; 4]>> = vec![Vec::new(); baselines.len() + candidates.len()];
    let mut all: Vec<Option<Scored>> = candidates.iter().map(|_| None).collect();
    let (mut device, mut precision) = (String::new(), "");
    for seed in 0..args.seeds {
        let mut noisy = clean.clone();
        let flipped = noisy.train.mislabel(args.noise, seed)?;
        let seeds = (0..args.judged.models as u64).map(|model| seed * args.judged.models as u64 + model);
        let models = Models::trained(&noisy, seeds, args.judged.device.as_deref())?;
        for (series, suspicion) in found.iter_mut().zip(suspicions(&models, &dampings)?) {
            series.push(judge(&suspicion, &flipped)?);
        }
        for (place, candidate) in candidates.iter().enumerate() {
            let scored = models.score(candidate)?;
            let suspicion: Vec<f64> = scored.scores.rows[0].iter().map(|score| -score).collect();
            found[baselines.len() + place].push(judge(&suspicion, &flipped)?);
            all[place] = Some(all[place].take().map_or_else(|| scored.clone(), |before| before.and(&scored)));
        }
        (device, precision) = (models.device, models.precision);
    }
    let (of_baselines, of_methods) = found.split_at(baselines.len());
    let baseline = |(&(name, damping), series): (&(&str, Option<f64>), &Vec<[f64; 4]>)| Row {
        damping,
        estimate: damping.map(|_| "empirical"),
        ..Row::baseline(name, figures(series))
    };
    let mut rows: Vec<Row> = baselines.iter().zip(of_baselines).map(baseline).collect();
    for ((candidate, series), scored) in candidates.iter().zip(of_methods).zip(&all) {
        if let Some(scored) = scored {
            rows.push(row(candidate, scored, figures(series)));
        }
    }
    let about = format!(
        "Wrong labels: {:.0} % of {} training images, {} seeds; scores for the mean of {} queries. AUC and the share of the \
         wrong labels among the most suspicious images.",
        100.0 * args.noise,
        clean.train.len(),
        args.seeds,
        clean.queries.len(),
    );
    let more = Map::from_iter([("noise".to_owned(), json!(args.noise)), ("seeds".to_owned(), json!(args.seeds))]);
    Report {
        truth: TRUTH,
        figure: FIGURE,
        about,
        task: &clean,
        place: (&device, precision),
        judged: &args.judged,
        more,
        rows,
        began,
    }
    .write(&folder, &args.result)
}

/// How suspicious each image is by the baselines, the mean over the models.
fn suspicions(models: &Models, dampings: &[f64]) -> Result<Vec<Vec<f64>>, CliError> {
    let mut sums: Vec<Vec<f64>> = vec![Vec::new(); BASELINES.len() + dampings.len()];
    for model in &models.models {
        let found = baselines(model, &models.train).map_err(CliError::Score)?;
        let exact = Options::named("exact", Default::default()).expect("the registry has the exact method");
        let mut series = vec![found.losses, found.gradient_norms];
        for &factor in dampings {
            let options = Options { damping: Damping::Relative(factor), ..exact.clone() };
            let own = self_influence(&TaskSource::train(model, &models.train), CurvatureFrom::Training, &options)
                .map_err(CliError::Score)?;
            series.push(own.values);
        }
        for (sum, values) in sums.iter_mut().zip(series) {
            sum.resize(values.len(), 0.0);
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
    Ok(sums)
}

fn judge(suspicion: &[f64], flipped: &[bool]) -> Result<[f64; 4], CliError> {
    let mut figures = [auc(suspicion, flipped)?, 0.0, 0.0, 0.0];
    for (figure, (_, share)) in figures[1..].iter_mut().zip(SHARES) {
        *figure = detection_rate(suspicion, flipped, share)?;
    }
    Ok(figures)
}

fn figures(series: &[[f64; 4]]) -> Vec<Figure> {
    let of = |place: usize| mean_and_error(&series.iter().map(|found| found[place]).collect::<Vec<_>>());
    let (area, error) = of(0);
    let mut figures = vec![("auc".to_owned(), Some(area)), ("auc_error".to_owned(), error)];
    figures.extend(SHARES.iter().enumerate().map(|(place, (name, _))| ((*name).to_owned(), Some(of(place + 1).0))));
    figures
}
