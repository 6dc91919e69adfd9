use std::time::Instant;

use hyperinf::eval::{LdsConfig, LdsTruth};
use serde_json::{Map, json};

use super::candidate::candidates;
use super::report::{Report, folder, judged};
use super::setup::{Models, at_least, bank, task, telling};
use crate::args::LdsArgs;
use crate::error::CliError;

/// The truth's name.
const TRUTH: &str = "lds";
/// What the figures are.
const FIGURE: &str = "Spearman's correlation over subsets of the summed scores with the negative loss, mean over queries, in [-1, 1]; higher = better";

pub(super) fn run(args: &LdsArgs) -> Result<(), CliError> {
    let began = Instant::now();
    at_least("--subsets", args.subsets, 2)?;
    let candidates = candidates(&args.judged)?;
    let folder = folder(&args.result, TRUTH)?;
    let task = task(&args.task)?;
    let (path, mut bank) = bank(&args.bank, TRUTH, &args.result, &task)?;
    let config = LdsConfig { subsets: args.subsets, share: args.share, seeds: (0..args.bank.seeds).collect(), draw: 0 };
    let kept = bank.len();
    let truth = telling(|progress| LdsTruth::retrain(&task, &config, &mut bank, progress))?;
    let retrained = began.elapsed().as_secs_f64();
    let agreement = truth.agreement()?;
    let models = Models::trained(&task, 0..args.judged.models as u64, args.judged.device.as_deref())?;
    let rows = judged(&candidates, &models, |scored| {
        let found = truth.lds(&scored.scores.rows)?;
        Ok(vec![
            ("lds".to_owned(), Some(found.mean.mean)),
            ("low".to_owned(), found.mean.low),
            ("high".to_owned(), found.mean.high),
            ("constant".to_owned(), Some(found.constant as f64)),
        ])
    })?;
    let half = agreement.as_ref().map_or("–".into(), |agreement| agreement.mean.to_string());
    let about = format!(
        "Linear datamodelling score over {} queries: {} subsets of {} of {} training images, {} seeds each, scores of {} \
         trained model(s).\nHalf of the seeds predicts the other half with {half}.",
        task.queries.len(),
        args.subsets,
        truth.subsets.first().map_or(0, Vec::len),
        task.train.len(),
        args.bank.seeds,
        args.judged.models,
    );
    let more = Map::from_iter([
        ("subsets".to_owned(), json!(args.subsets)),
        ("share".to_owned(), json!(args.share)),
        ("seeds".to_owned(), json!(args.bank.seeds)),
        ("bank".to_owned(), json!(path)),
        ("results_found_in_the_bank".to_owned(), json!(kept)),
        ("retraining_seconds".to_owned(), json!(retrained)),
        ("agreement_of_halves_of_the_seeds".to_owned(), json!(agreement.map(|a| a.mean))),
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
