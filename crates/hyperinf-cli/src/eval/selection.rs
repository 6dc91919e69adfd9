use std::time::Instant;

use hyperinf::eval::digits::{DigitsTask, Length, digits};
use hyperinf::eval::{Interval, Selection, SelectionConfig, random_scores, selection};
use hyperinf::scoring::{Options, QueryMode};
use serde_json::{Map, json};

use super::candidate::{Candidate, candidates};
use super::report::{Figure, Report, Row, folder, row};
use super::setup::{Models, at_least, bank, once, recipe, telling};
use crate::args::SelectionArgs;
use crate::error::CliError;

/// The truth's name.
const TRUTH: &str = "selection";
/// What the figures are.
const FIGURE: &str = "loss in nats of images not trained on, mean over trainings; lower = better";

pub(super) fn run(args: &SelectionArgs) -> Result<(), CliError> {
    let began = Instant::now();
    at_least("--draws-of", args.draws_of, 1)?;
    at_least("--test", args.test, 1)?;
    at_least("--train", args.task.train, 1)?;
    at_least("--queries", args.task.queries, 1)?;
    let candidates = candidates(&args.judged)?;
    let folder = folder(&args.result, TRUTH)?;
    // The queries that scores are for, and the images by which the trained models are judged, are others.
    let (mut train, rest) = digits()?.split(args.task.train, args.task.queries + args.test, args.task.data_seed)?;
    train.mislabel(args.noise, args.task.data_seed)?;
    let own: Vec<usize> = (0..args.task.queries).collect();
    let test: Vec<usize> = (args.task.queries..rest.len()).collect();
    let mut recipe = recipe(&args.task)?;
    recipe.length = Length::Steps(recipe.steps(train.len()));
    let asked = DigitsTask { train, queries: rest.of(&own), hidden: args.task.hidden.0.clone(), recipe };
    let task = DigitsTask { queries: rest.of(&test), ..asked.clone() };
    let (path, mut bank) = bank(&args.bank, TRUTH, &args.result, &task)?;
    let config = SelectionConfig {
        keep: once(&args.keep),
        seeds: (0..args.bank.seeds).collect(),
        draws: args.draws_of,
        draw: 0,
    };
    let mut run = |scores: &[Vec<f64>]| telling(|progress| selection(&task, scores, &config, &mut bank, progress));
    let arbitrary = run(&random_scores(1, task.train.len(), 0))?;
    let baseline =
        |of: fn(&Selection) -> Interval| -> Vec<Figure> { arbitrary.iter().flat_map(|s| figures(s, of(s))).collect() };
    let mut rows =
        vec![Row::baseline("all images", baseline(|s| s.full)), Row::baseline("random", baseline(|s| s.random))];
    let models = Models::trained(&asked, 0..args.judged.models as u64, args.judged.device.as_deref())?;
    for candidate in candidates {
        let options = Options { query: QueryMode::Mean, ..candidate.options.clone() };
        let candidate = Candidate { options, ..candidate };
        let scored = models.score(&candidate)?;
        let found = run(&scored.scores.rows)?;
        rows.push(row(&candidate, &scored, found.iter().flat_map(|s| figures(s, s.best)).collect()));
    }
    let about = format!(
        "Selection: training on a part of {} images ({:.0} % wrong labels) for {} steps, {} seeds each; mean loss of {} other \
         images.",
        task.train.len(),
        100.0 * args.noise,
        task.recipe.steps(task.train.len()),
        args.bank.seeds,
        task.queries.len(),
    );
    let more = Map::from_iter([
        ("keep".to_owned(), json!(config.keep)),
        ("noise".to_owned(), json!(args.noise)),
        ("random_draws".to_owned(), json!(args.draws_of)),
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

/// A mean loss and its interval, cut at 0: no cross-entropy is below.
fn figures(selection: &Selection, loss: Interval) -> [Figure; 3] {
    let loss = loss.within(0.0, f64::INFINITY);
    let name = format!("loss_{}", selection.share);
    [(name.clone(), Some(loss.mean)), (format!("{name}_low"), loss.low), (format!("{name}_high"), loss.high)]
}
