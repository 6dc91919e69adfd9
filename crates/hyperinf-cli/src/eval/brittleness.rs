use std::time::Instant;

use hyperinf::eval::digits::DigitsTask;
use hyperinf::eval::{Bank, BrittlenessConfig, brittleness, random_scores};
use serde_json::{Map, json};

use super::candidate::candidates;
use super::report::{Figure, Report, Row, folder, row};
use super::setup::{Models, at_least, bank, once, task, telling};
use crate::args::BrittlenessArgs;
use crate::error::CliError;

/// The truth's name.
const TRUTH: &str = "brittleness";
/// What the figures are.
const FIGURE: &str = "growth of the loss in nats and share of changed predictions, means over queries; higher = better";

pub(super) fn run(args: &BrittlenessArgs) -> Result<(), CliError> {
    let began = Instant::now();
    at_least("--look-at", args.look_at, 1)?;
    let candidates = candidates(&args.judged)?;
    let folder = folder(&args.result, TRUTH)?;
    let task = task(&args.task)?;
    let (path, mut bank) = bank(&args.bank, TRUTH, &args.result, &task)?;
    let config = BrittlenessConfig {
        remove: once(&args.remove),
        queries: (0..args.look_at).collect(),
        seeds: (0..args.bank.seeds).collect(),
    };
    let random = random_scores(task.queries.len(), task.train.len(), 0);
    let mut rows = vec![Row::baseline("random", figures(&task, &random, &config, &mut bank)?)];
    let models = Models::trained(&task, 0..args.judged.models as u64, args.judged.device.as_deref())?;
    for candidate in &candidates {
        let scored = models.score(candidate)?;
        rows.push(row(candidate, &scored, figures(&task, &scored.scores.rows, &config, &mut bank)?));
    }
    let about = format!(
        "Brittleness: the most helpful of {} training images removed for each of {} queries, {} seeds each; the growth of \
         the query's loss and the share of changed predictions.",
        task.train.len(),
        args.look_at,
        args.bank.seeds,
    );
    let more = Map::from_iter([
        ("remove".to_owned(), json!(config.remove)),
        ("looked_at".to_owned(), json!(args.look_at)),
        ("seeds".to_owned(), json!(args.bank.seeds)),
        ("bank".to_owned(), json!(path)),
    ]);
    let report = Report {
        truth: TRUTH,
        figure: FIGURE,
        about,
        task: &task,
        place: models.place(),
        judged: &args.judged,
        more,
        rows,
        began,
    };
    report.write(&folder, &args.result)
}

fn figures(
    task: &DigitsTask,
    scores: &[Vec<f64>],
    config: &BrittlenessConfig,
    bank: &mut Bank,
) -> Result<Vec<Figure>, CliError> {
    let found = telling(|progress| brittleness(task, scores, config, bank, progress))?;
    let mut figures = Vec::new();
    for part in found {
        figures.push((format!("growth_{}", part.removed), Some(part.growth.mean)));
        figures.push((format!("growth_{}_low", part.removed), part.growth.low));
        figures.push((format!("growth_{}_high", part.removed), part.growth.high));
        figures.push((format!("flipped_{}", part.removed), part.flipped.map(|flipped| flipped.mean)));
    }
    Ok(figures)
}
