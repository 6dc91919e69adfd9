use std::time::Instant;

use burn::module::Module;
use hyperinf::curvature::Damping;
use hyperinf::eval::{Interval, Proximal, Responses, pearson, spearman};
use hyperinf::scoring::{Options, baselines};
use serde_json::{Map, json};

use super::candidate::{Candidate, candidates_at, dampings};
use super::report::{Figure, Report, folder, row};
use super::setup::{Models, at_least, task};
use crate::args::PbrfArgs;
use crate::error::CliError;
use crate::progress::Progress;

/// The truth's name.
const TRUTH: &str = "pbrf";
/// What the figures are.
const FIGURE: &str = "correlation over samples of the scores with the growth of the loss, mean over queries, in [-1, 1]; higher = better";

pub(super) fn run(args: &PbrfArgs) -> Result<(), CliError> {
    let began = Instant::now();
    at_least("--samples", args.samples, 2)?;
    if args.judged.models != 1 {
        let (expected, value) = ("1: the response is one model's", args.judged.models as f64);
        return Err(CliError::Value { flag: "--models", expected, value });
    }
    let dampings = dampings(&args.judged, 100.0)?;
    let candidates = candidates_at(&args.judged, &dampings)?;
    let folder = folder(&args.result, TRUTH)?;
    let task = task(&args.task)?;
    if args.samples > task.train.len() {
        let (expected, value) = ("at most the number of training images", args.samples as f64);
        return Err(CliError::Value { flag: "--samples", expected, value });
    }
    let models = Models::precise(&task, [0], args.judged.device.as_deref())?;
    let model = &models.models[0];
    let norms = baselines(model, &models.train).map_err(CliError::Score)?.gradient_norms;
    let parameters = model.num_params();
    let mean_square = norms.iter().map(|norm| norm * norm).sum::<f64>() / (norms.len() * parameters) as f64;

    let mut progress = Progress::new("responses", (dampings.len() * args.samples) as u64);
    let mut truths: Vec<(f64, Responses)> = Vec::new();
    for (place, factor) in dampings.iter().enumerate() {
        let proximal = Proximal { weight: args.weight, ..Proximal::new(factor * mean_square) };
        let mut responses =
            Responses { effects: vec![Vec::new(); task.queries.len()], residuals: Vec::new(), steps: Vec::new() };
        for sample in 0..args.samples {
            progress.at((place * args.samples + sample) as u64, || format!("λ {:.1e}", proximal.lambda));
            let one = proximal.responses(model, &models.train, &models.queries, &[sample])?;
            responses.effects.iter_mut().zip(one.effects).for_each(|(all, own)| all.extend(own));
            responses.residuals.extend(one.residuals);
            responses.steps.extend(one.steps);
        }
        truths.push((*factor, responses));
    }
    progress.finish();

    let mut rows = Vec::new();
    for candidate in &candidates {
        // What has no damping is held against the responses at each λ.
        for (factor, truth) in truths.iter().filter(|(of, _)| candidate.damping.is_none_or(|own| own == *of)) {
            let damping = Damping::Absolute(factor * mean_square);
            let options = Options { damping, ..candidate.options.clone() };
            let scored = models.score_with(candidate.estimate, &options)?;
            let judged = Candidate { damping: Some(*factor), ..candidate.clone() };
            rows.push(row(&judged, &scored, figures(&scored.scores.rows, truth, args.samples)?));
        }
    }
    let worst = truths.iter().flat_map(|(_, truth)| &truth.residuals).copied().fold(0.0, f64::max);
    let about = format!(
        "Proximal Bregman responses of {} queries to {} of {} training images that lose {} of their weight; correlation \
         over the images, the mean over queries.\nThe minimisations ended at {worst:.1e} of their first gradient or below.",
        task.queries.len(),
        args.samples,
        task.train.len(),
        args.weight,
    );
    let lambdas: Vec<f64> = dampings.iter().map(|factor| factor * mean_square).collect();
    let more = Map::from_iter([
        ("samples".to_owned(), json!(args.samples)),
        ("weight".to_owned(), json!(args.weight)),
        ("lambda".to_owned(), json!(lambdas)),
        ("largest_residual".to_owned(), json!(worst)),
    ]);
    Report {
        truth: TRUTH,
        figure: FIGURE,
        about,
        task: &task,
        place: models.place(),
        judged: &args.judged,
        more,
        rows,
        began,
    }
    .write(&folder, &args.result)
}

/// The mean correlations, the interval cut to the range of a correlation.
fn figures(scores: &[Vec<f64>], truth: &Responses, samples: usize) -> Result<Vec<Figure>, CliError> {
    let mut found = [Vec::new(), Vec::new()];
    for (scores, effects) in scores.iter().zip(&truth.effects) {
        found[0].push(spearman(&scores[..samples], effects)?);
        found[1].push(pearson(&scores[..samples], effects)?);
    }
    let [ranks, linear] = found.map(|values| Interval::of(&values).map(|mean| mean.within(-1.0, 1.0)));
    Ok(vec![
        ("spearman".to_owned(), ranks.map(|i| i.mean)),
        ("low".to_owned(), ranks.and_then(|i| i.low)),
        ("high".to_owned(), ranks.and_then(|i| i.high)),
        ("pearson".to_owned(), linear.map(|i| i.mean)),
    ])
}
