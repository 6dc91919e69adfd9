use std::time::Instant;

use hyperinf::eval::{auc, detection_rate, mean_and_error};
use hyperinf::scoring::{Options, QueryMode, TaskSource, baselines, self_influence};
use serde_json::{Map, json};

use super::candidate::{Candidate, candidates};
use super::report::{Figure, Report, Row, folder, row};
use super::setup::{Models, Scored, task};
use crate::args::MislabelArgs;
use crate::error::CliError;

/// The shares of the most suspicious images that are looked at.
const SHARES: [(&str, f64); 3] = [("found_10", 0.1), ("found_20", 0.2), ("found_30", 0.3)];
/// What needs no query and no curvature, or only itself.
const BASELINES: [&str; 3] = ["training-loss", "gradient-norm", "self-influence"];

pub(super) fn run(args: &MislabelArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let candidates: Vec<Candidate> = candidates(&args.judged)?
        .into_iter()
        .map(|candidate| {
            let options = Options { query: QueryMode::Mean, ..candidate.options.clone() };
            Candidate { options, ..candidate }
        })
        .collect();
    let folder = folder(&args.result)?;
    let clean = task(&args.task)?;
    // One series of figures per baseline and method, one value per seed.
    let mut found: Vec<Vec<[f64; 4]>> = vec![Vec::new(); BASELINES.len() + candidates.len()];
    let mut last: Vec<Option<Scored>> = candidates.iter().map(|_| None).collect();
    let mut device = String::new();
    for seed in 0..args.seeds {
        let mut noisy = clean.clone();
        let flipped = noisy.train.mislabel(args.noise, seed)?;
        let seeds = (0..args.judged.models as u64).map(|model| seed * args.judged.models as u64 + model);
        let models = Models::trained(&noisy, seeds, args.judged.device.as_deref())?;
        for (series, suspicion) in found.iter_mut().zip(suspicions(&models)?) {
            series.push(judge(&suspicion, &flipped)?);
        }
        for (place, candidate) in candidates.iter().enumerate() {
            let scored = models.score(candidate)?;
            let suspicion: Vec<f64> = scored.scores.rows[0].iter().map(|score| -score).collect();
            found[BASELINES.len() + place].push(judge(&suspicion, &flipped)?);
            last[place] = Some(scored);
        }
        device = models.device;
    }
    let (of_baselines, of_methods) = found.split_at(BASELINES.len());
    let mut rows: Vec<Row> =
        BASELINES.iter().zip(of_baselines).map(|(name, series)| Row::baseline(name, figures(series))).collect();
    for ((candidate, series), scored) in candidates.iter().zip(of_methods).zip(&last) {
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
    let more = Map::from_iter([
        ("noise".to_owned(), json!(args.noise)),
        ("seeds".to_owned(), json!(args.seeds)),
        ("models".to_owned(), json!(args.judged.models)),
    ]);
    Report { truth: "mislabel", about, task: &clean, device: &device, more, rows, began }.write(&folder, &args.result)
}

/// How suspicious each image is by the baselines, the mean over the models.
fn suspicions(models: &Models) -> Result<[Vec<f64>; 3], CliError> {
    let mut sums: [Vec<f64>; 3] = Default::default();
    for model in &models.models {
        let found = baselines(model, &models.train).map_err(CliError::Score)?;
        let exact = Options::named("exact", Default::default()).expect("the registry has the exact method");
        let own = self_influence(&TaskSource::train(model, &models.train), &exact).map_err(CliError::Score)?;
        for (sum, values) in sums.iter_mut().zip([found.losses, found.gradient_norms, own.values]) {
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
