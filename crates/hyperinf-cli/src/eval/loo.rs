use std::time::Instant;

use hyperinf::eval::{Interval, leave_one_out, spearman};
use serde_json::{Map, json};

use super::candidate::candidates;
use super::report::{Report, folder, judged};
use super::setup::{Models, at_least, bank, task, telling};
use crate::args::LooArgs;
use crate::error::CliError;

/// The truth's name.
const TRUTH: &str = "loo";
/// What the figures are.
const FIGURE: &str = "Spearman's correlation over samples of the scores with the growth of the loss, mean over queries, in [-1, 1]; higher = better";

pub(super) fn run(args: &LooArgs) -> Result<(), CliError> {
    let began = Instant::now();
    at_least("--leave-out", args.leave_out, 2)?;
    let candidates = candidates(&args.judged)?;
    let folder = folder(&args.result, TRUTH)?;
    let task = task(&args.task)?;
    let (path, mut bank) = bank(&args.bank, TRUTH, &args.result, &task)?;
    let left_out: Vec<usize> = (0..args.leave_out).collect();
    let seeds: Vec<u64> = (0..args.bank.seeds).collect();
    let truth = telling(|progress| leave_one_out(&task, &left_out, &seeds, &mut bank, progress))?;
    let models = Models::trained(&task, 0..args.judged.models as u64, args.judged.device.as_deref())?;
    let rows = judged(&candidates, &models, |scored| {
        let pairs = scored.scores.rows.iter().zip(&truth.effects);
        let found: Vec<f64> =
            pairs.map(|(scores, effects)| spearman(&scores[..left_out.len()], effects)).collect::<Result<_, _>>()?;
        let mean = Interval::of(&found).map(|mean| mean.within(-1.0, 1.0));
        Ok(vec![
            ("spearman".to_owned(), mean.map(|m| m.mean)),
            ("low".to_owned(), mean.and_then(|m| m.low)),
            ("high".to_owned(), mean.and_then(|m| m.high)),
        ])
    })?;
    let noise = truth.errors.as_ref().map(|errors| {
        let mean = |values: &[Vec<f64>]| {
            let all: Vec<f64> = values.iter().flatten().map(|v| v.abs()).collect();
            all.iter().sum::<f64>() / all.len() as f64
        };
        (mean(&truth.effects), mean(errors))
    });
    let told = noise.map_or_else(String::new, |(effect, error)| {
        format!("\nMean size of an effect {effect:.2e}, of its standard error over seeds {error:.2e}.")
    });
    let about = format!(
        "Leave-one-out: {} of {} training images left out in turn, {} seeds each, for {} queries; scores of {} trained \
         model(s).{told}",
        args.leave_out,
        task.train.len(),
        args.bank.seeds,
        task.queries.len(),
        args.judged.models,
    );
    let more = Map::from_iter([
        ("left_out".to_owned(), json!(args.leave_out)),
        ("seeds".to_owned(), json!(args.bank.seeds)),
        ("bank".to_owned(), json!(path)),
        ("mean_effect".to_owned(), json!(noise.map(|n| n.0))),
        ("mean_standard_error".to_owned(), json!(noise.map(|n| n.1))),
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
