use std::time::Instant;

use burn::module::Module;
use hyperinf::curvature::Damping;
use hyperinf::eval::{Interval, Proximal, Responses, pearson, spearman};
use hyperinf::scoring::{Options, baselines};
use serde_json::{Map, json};

use super::candidate::{candidates_at, dampings};
use super::report::{Report, folder, row};
use super::setup::{Models, task};
use crate::args::PbrfArgs;
use crate::error::CliError;
use crate::progress::Progress;

pub(super) fn run(args: &PbrfArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let dampings = dampings(&args.judged, 100.0);
    let candidates = candidates_at(&args.judged, &dampings)?;
    let folder = folder(&args.result)?;
    let task = task(&args.task)?;
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
        let factor = candidate.damping.unwrap_or(dampings[0]);
        let Some((_, truth)) = truths.iter().find(|(of, _)| *of == factor) else { continue };
        let options = Options { damping: Damping::Absolute(factor * mean_square), ..candidate.options.clone() };
        let scored = models.score_with(candidate.estimate, &options)?;
        let mut found = [Vec::new(), Vec::new()];
        for (scores, effects) in scored.scores.rows.iter().zip(&truth.effects) {
            found[0].push(spearman(&scores[..args.samples], effects)?);
            found[1].push(pearson(&scores[..args.samples], effects)?);
        }
        let [ranks, linear] = found.map(|values| Interval::of(&values));
        let figures = vec![
            ("spearman".to_owned(), ranks.map(|i| i.mean)),
            ("low".to_owned(), ranks.map(|i| i.low)),
            ("high".to_owned(), ranks.map(|i| i.high)),
            ("pearson".to_owned(), linear.map(|i| i.mean)),
        ];
        rows.push(row(candidate, &scored, figures));
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
    Report { truth: "pbrf", about, task: &task, device: &models.device, more, rows, began }.write(&folder, &args.result)
}
