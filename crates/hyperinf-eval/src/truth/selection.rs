use hyperinf_scoring::QueryMode;
use serde::Serialize;
use serde_json::json;

use super::Truth;
use super::retrain::{best_first, check_scores, some};
use crate::digits::{DigitsTask, Length, digits};
use crate::{Bank, Bench, Figure, Findings, Interval, Job, Retrain, Row, TruthError, random_scores, random_subsets};

/// Data selection: the shares kept, and the trainings on them.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `keep` | 0.05, 0.2, 0.4, 0.7 | shares of the samples to keep | 0 < share < 1 |
/// | `seeds` | 0 to 4 | trainings on each selection | at least one |
/// | `draws` | 5 | random selections of the same size, each trained with one seed in turn | ≥ 1 |
/// | `draw` | 0 | the seed of the random selections | |
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionConfig {
    /// The shares to keep.
    pub keep: Vec<f64>,
    /// The seeds of the trainings.
    pub seeds: Vec<u64>,
    /// The number of random selections of each size.
    pub draws: usize,
    /// The seed of the random selections.
    pub draw: u64,
}

impl Default for SelectionConfig {
    fn default() -> Self {
        Self { keep: vec![0.05, 0.2, 0.4, 0.7], seeds: (0..5).collect(), draws: 5, draw: 0 }
    }
}

/// Data selection as a ground truth: the loss on other images after training on the best ones.
///
/// The images that judge the trained models are neither training images nor the queries that scores are computed for.
/// Scores are for the mean of the queries; every training takes as many steps as one on all images.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `selection` | see [`SelectionConfig`] | shares and trainings | |
/// | `test` | 300 | images that judge the trained models | ≥ 1 |
/// | `noise` | 0 | share of the training images that get a wrong label first | [0, 1] |
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionTrial {
    /// Shares and trainings.
    pub selection: SelectionConfig,
    /// The number of images that judge the trained models.
    pub test: usize,
    /// The share of the training images that get a wrong label first.
    pub noise: f64,
}

impl Default for SelectionTrial {
    fn default() -> Self {
        Self { selection: SelectionConfig::default(), test: 300, noise: 0.0 }
    }
}

impl Truth for SelectionTrial {
    fn name(&self) -> &'static str {
        "selection"
    }

    fn figure(&self) -> &'static str {
        "loss in nats of images not trained on, mean over trainings; lower = better"
    }

    fn evaluate(&self, bench: &mut Bench<'_>) -> Result<Findings, TruthError> {
        let (scored, judged) = self.tasks(bench)?;
        let run = |bench: &mut Bench<'_>, scores: &[Vec<f64>]| {
            bench.retrain(&judged, |bank, progress| selection(&judged, scores, &self.selection, bank, progress))
        };
        let random = run(bench, &random_scores(1, judged.train.len(), 0))?;
        bench.add(Row::baseline("all images", Selection::figures(&random, |selection| selection.full)));
        bench.add(Row::baseline("random", Selection::figures(&random, |selection| selection.random)));
        let ensemble = bench.train(&scored, bench.seeds())?;
        bench.judge(&ensemble, QueryMode::Mean, |bench, scores| {
            Ok(Selection::figures(&run(bench, &scores.rows)?, |selection| selection.best))
        })?;
        let about = format!(
            "Selection: training on a part of {} images ({:.0} % wrong labels) for {} steps, {} seeds each; mean loss of \
             {} other images.",
            judged.train.len(),
            100.0 * self.noise,
            judged.recipe.steps(judged.train.len()),
            self.selection.seeds.len(),
            judged.queries.len(),
        );
        let details = [
            ("keep", json!(self.selection.keep)),
            ("noise", json!(self.noise)),
            ("random_draws", json!(self.selection.draws)),
            ("seeds", json!(self.selection.seeds.len())),
        ];
        Ok(Findings::new(&judged, about, details))
    }
}

impl SelectionTrial {
    /// The task with the queries that scores are for, and the one with the images that judge the trained models.
    fn tasks(&self, bench: &Bench<'_>) -> Result<(DigitsTask, DigitsTask), TruthError> {
        let config = &bench.config().task;
        let mut recipe = config.recipe;
        recipe.validate()?;
        some("test images", self.test)?;
        some("queries", config.queries)?;
        let (mut train, rest) = digits()?.split(config.train, config.queries + self.test, config.data_seed)?;
        train.mislabel(self.noise, config.data_seed)?;
        recipe.length = Length::Steps(recipe.steps(train.len()));
        let own: Vec<usize> = (0..config.queries).collect();
        let test: Vec<usize> = (config.queries..rest.len()).collect();
        let scored = DigitsTask { train, queries: rest.of(&own), hidden: config.hidden.clone(), recipe };
        let judged = DigitsTask { queries: rest.of(&test), ..scored.clone() };
        Ok((scored, judged))
    }
}

/// Losses after training on selected samples: of each training the mean over queries, with an interval over trainings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Selection {
    /// The share kept.
    pub share: f64,
    /// The number of samples kept.
    pub kept: usize,
    /// Loss after training on the best.
    pub best: Interval,
    /// Loss after training on random selections.
    pub random: Interval,
    /// Loss after training on all samples.
    pub full: Interval,
}

impl Selection {
    /// The mean losses with their intervals, cut at 0: no cross-entropy is below.
    fn figures(all: &[Self], loss: impl Fn(&Self) -> Interval) -> Vec<Figure> {
        let figures = |selection: &Self| {
            let name = format!("loss_{}", selection.share);
            let (low, high) = (format!("{name}_low"), format!("{name}_high"));
            Figure::interval([&name, &low, &high], Some(loss(selection).within(0.0, f64::INFINITY)))
        };
        all.iter().flat_map(figures).collect()
    }
}

/// Keeps the samples with the highest mean scores over the queries and trains on them from scratch, on random
/// selections of the same size, and on all samples: one result per share.
///
/// `scores` are `[q, n]`, or one row for all queries; positive = helpful. Every training must take the same number of
/// steps, or fewer samples would also mean less training: a task whose [`Retrain::steps`] differ is refused.
///
/// # Errors
///
/// If the scores have another shape, a setting is out of range, steps differ, or a training fails.
pub fn selection(
    task: &dyn Retrain,
    scores: &[Vec<f64>],
    config: &SelectionConfig,
    bank: &mut Bank,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Selection>, TruthError> {
    let n = task.samples();
    if scores.len() != 1 || scores[0].len() != n {
        check_scores(task, scores)?;
    }
    let SelectionConfig { keep, seeds, draws, draw } = config;
    some("seeds", seeds.len())?;
    some("random draws", *draws)?;
    let mean: Vec<f64> = (0..n).map(|i| scores.iter().map(|row| row[i]).sum::<f64>() / scores.len() as f64).collect();
    let order = best_first(&mean);
    let mut jobs: Vec<Job> = seeds.iter().map(|&seed| ((0..n).collect(), seed)).collect();
    for &share in keep {
        let random = random_subsets(n, share, *draws, *draw)?;
        let kept = random[0].len();
        if let (Some(full), Some(steps)) = (task.steps(n), task.steps(kept))
            && full != steps
        {
            return Err(TruthError::Steps { samples: kept, steps, full });
        }
        let mut best = order[..kept].to_vec();
        best.sort_unstable();
        jobs.extend(seeds.iter().map(|&seed| (best.clone(), seed)));
        jobs.extend(random.into_iter().zip(seeds.iter().cycle()).map(|(subset, &seed)| (subset, seed)));
    }
    let outcomes = bank.outcomes(task, &jobs, progress)?;
    let losses: Vec<f64> =
        outcomes.iter().map(|o| o.losses.iter().sum::<f64>() / o.losses.len().max(1) as f64).collect();
    let interval = |values: &[f64]| Interval::of(values).expect("there is a training");
    let (full, parts) = losses.split_at(seeds.len());
    let sizes = jobs[seeds.len()..].chunks(seeds.len() + draws).map(|jobs| jobs[0].0.len());
    let results = keep.iter().zip(sizes).zip(parts.chunks(seeds.len() + draws)).map(|((&share, kept), losses)| {
        let (best, random) = losses.split_at(seeds.len());
        Selection { share, kept, best: interval(best), random: interval(random), full: interval(full) }
    });
    Ok(results.collect())
}
