//! Scores over the recorded states of the training that made the adapter: TracIn and SOURCE, without files to name.

use burn::tensor::{Device, Tensor};
use hyperinf_curvature::Storage;
use hyperinf_gradients::{Estimate, GradientError, Gradients, Task};
use hyperinf_models::{ModelError, OptimizerChoice, SampleModel, TrainConfig, without_dropout};
use hyperinf_scoring::hyperinf_solvers::Exact;
use hyperinf_scoring::{
    CurvatureFrom, CurvatureSource, Joined, Method, Options, QueryMode, ScaledSource, ScoreError, Scores, Segment,
    Source, TaskSource, TracIn, attribute, curvature, query_gradients, through_segments,
};
use serde::Serialize;

use crate::baseline::{Ranked, RowMethod};
use crate::event::{Detail, Event, Notice, Progress};
use crate::kind::Kind;
use crate::model_files::ModelFiles;
use crate::recorded::{Recorded, recorded};
use crate::run::Run;
use crate::samples::by_length;
use crate::stage::Stage;
use crate::{RunError, ensemble};

/// Methods over the recorded states of a training.
///
/// | name | score of a training row `i` for a query |
/// |---|---|
/// | `tracin-cp` | `Σ_s η_s ⟨∇q(θ_s), ∇ℓ_i(θ_s)⟩` over the states `s`, with `η_s` the learning rates up to the next (Pruthi et al. 2020) |
/// | `tracin-adam` | the same with the training gradient divided by AdamW's `√v̂_s + ε`, entry by entry |
/// | `source` | segments of the training in the optimizer's metric, each with its own curvature ([`through_segments`]) |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trajectory {
    /// TracIn over checkpoints.
    TracIn,
    /// TracIn in AdamW's metric.
    TracInAdam,
    /// SOURCE in the optimizer's metric.
    Source,
}

/// What was followed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FollowedStates {
    /// The steps of the training at the recorded states.
    pub states: Vec<usize>,
    /// The learning rates of the steps from each state to the next, summed.
    pub durations: Vec<f64>,
    /// The segments of `source`, by the number of their states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<usize>,
    /// The version of the program that recorded the training.
    pub recorded_by: String,
}

/// The most segments of `source`, as published.
const SEGMENTS: usize = 3;

impl Trajectory {
    /// All, with their names.
    pub const NAMES: [(&'static str, Self); 3] =
        [("tracin-cp", Self::TracIn), ("tracin-adam", Self::TracInAdam), ("source", Self::Source)];

    /// That of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, found)| *found)
    }

    /// The name, as in [`NAMES`](Self::NAMES).
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, found)| *found == self).map_or("", |(name, _)| name)
    }

    /// What a score is, in one line.
    pub fn summary(self) -> &'static str {
        match self {
            Self::TracIn => "inner products of gradients over the recorded states",
            Self::TracInAdam => "tracin-cp in AdamW's metric",
            Self::Source => "segments of the training, each with its curvature",
        }
    }

    /// Whether its curvature is drawn, from a seed.
    pub fn is_drawn(self) -> bool {
        self == Self::Source
    }
}

/// What is asked of a kind.
pub(crate) struct Tracing {
    pub(crate) method: Trajectory,
    /// The seed of what is drawn.
    pub(crate) seed: u64,
    /// The files of the model with its adapter.
    pub(crate) files: ModelFiles,
}

impl Run {
    /// Scores every training row for every query row, or for their mean, over the states of the training that
    /// `finetune` recorded. Positive = helpful; a score over the number of training rows is about what the query's loss
    /// rises by without the row.
    ///
    /// The adapter must be one that was trained with [`Finetune::record`](crate::Finetune::record), on the same rows.
    /// `seed` draws the labels of the curvature of [`Trajectory::Source`].
    ///
    /// # Errors
    ///
    /// As [`Run::unrolled`].
    pub fn trajectory(
        &self,
        method: Trajectory,
        seed: u64,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ranked, RunError> {
        self.check_recorded(RowMethod::Trajectory(method))?;
        let files = self.files()?;
        let kind = files.kind();
        ensemble::check(self)?;
        let found = kind.trajectory(self, Tracing { method, seed, files }, device, observe)?;
        self.averaged(found, |run| run.trajectory(method, seed, device, observe))
    }
}

/// [`Run::trajectory`] of one kind of model.
pub(crate) fn trajectory<K: Kind>(
    run: &Run,
    tracing: Tracing,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Ranked, RunError> {
    let Tracing { method, seed, files } = tracing;
    if method == Trajectory::Source {
        K::check_estimate(labels_of(seed))?;
    }
    let followed = recorded::<K>(run, &files, device, observe)?;
    let measured = without_dropout(followed.prepared.model.clone());
    let predictions = followed.predictions(run, observe)?;
    let recording = &followed.recording;
    let states = recording.states();
    let durations = recording.durations(followed.train.samples.len())?;
    let order = by_length::<K::Model>(&followed.train.samples);
    let batches = |rows: &[usize], samples: &[<K::Model as SampleModel>::Sample]| {
        let chunks = rows.chunks(run.batch_size);
        let collate = |rows: &[usize]| measured.collate(&rows.iter().map(|&row| &samples[row]).collect::<Vec<_>>());
        chunks.map(collate).collect::<Result<Vec<_>, ModelError>>()
    };
    let in_order: Vec<usize> = (0..followed.query.samples.len()).collect();
    let (train, query) = (batches(&order, &followed.train.samples)?, batches(&in_order, &followed.query.samples)?);
    // One pass for the scores at each state; of `source` three for the curvature.
    let total = match method {
        Trajectory::TracIn | Trajectory::TracInAdam => states.len(),
        Trajectory::Source => 4 * states.len(),
    };
    observe(Event::Notice(Notice::Tracing { states: states.len(), passes: total, batches: train.len() }));
    let _listening = run.stop.listen();
    let mut done = 0;
    let mut passed = |passes: usize| {
        done += passes;
        let progress = Progress { stage: Stage::Trajectory, done, total, detail: Detail::Passes };
        observe(Event::Progress(progress));
        match run.stop.is_requested() {
            true => Err(RunError::Stopped { stage: Stage::Trajectory, done, total, kept: None }),
            false => Ok(()),
        }
    };
    let traced = Traced {
        followed: &followed,
        measured: &measured,
        train: &train,
        query: &query,
        mode: run.options.query,
        durations: &durations,
    };
    let (scores, segments) = match method {
        Trajectory::TracIn => (traced.tracin(false, &mut passed)?, Vec::new()),
        Trajectory::TracInAdam => (traced.tracin(true, &mut passed)?, Vec::new()),
        Trajectory::Source => traced.source(seed, &mut passed)?,
    };
    // From the order of the batches to that of the rows.
    let placed = |row: Vec<f64>| {
        let mut all = vec![0.0; row.len()];
        order.iter().zip(row).for_each(|(&sample, score)| all[sample] = score);
        all
    };
    let scores = Scores { rows: scores.rows.into_iter().map(placed).collect() };
    let recorded_by = recording.version().to_owned();
    let ranked = followed.ranked(run, RowMethod::Trajectory(method), predictions, scores, files);
    Ok(Ranked { trajectory: Some(FollowedStates { states, durations, segments, recorded_by }), ..ranked })
}

/// The estimate of the curvature of [`Trajectory::Source`].
fn labels_of(seed: u64) -> Estimate {
    Estimate::Sampled { draws: 1, seed }
}

/// A training with its rows in batches.
struct Traced<'a, K: Kind> {
    followed: &'a Recorded<K>,
    /// The model as the training found it, without dropout.
    measured: &'a K::Model,
    train: &'a [<K::Model as Task>::Batch],
    query: &'a [<K::Model as Task>::Batch],
    mode: QueryMode,
    durations: &'a [f64],
}

/// Says that some passes over the training rows are done.
type Passed<'a> = dyn FnMut(usize) -> Result<(), RunError> + 'a;

impl<K: Kind> Traced<'_, K> {
    /// The model at a recorded state.
    fn model(&self, place: usize) -> Result<K::Model, ModelError> {
        self.followed.recording.model_at(place, self.measured.clone())
    }

    /// AdamW's metric at a recorded state.
    fn metric(&self, place: usize, model: &K::Model) -> Result<Gradients, RunError> {
        let first = self.train.first().ok_or(GradientError::Empty { what: "batches" })?;
        Ok(self.followed.recording.metric_at(place)?.in_blocks(model, first)?)
    }

    fn tracin(&self, adam: bool, passed: &mut Passed<'_>) -> Result<Scores, RunError> {
        let mut total = TracIn::default();
        for (place, &duration) in self.durations.iter().enumerate() {
            let model = self.model(place)?;
            let queries = query_gradients(&TaskSource::query(&model, self.query), self.mode)?;
            let metric = if adam { Some(self.metric(place, &model)?) } else { None };
            let segment = Segment { duration, decay: 0.0, metric, curvature: Vec::new() };
            // The learning rate is in the queries.
            let x = through_segments(&queries, std::slice::from_ref(&segment))?.remove(0);
            total.add(1.0, self.products(&model, &x)?)?;
            passed(1)?;
        }
        Ok(total.finish()?.scores)
    }

    fn source(&self, seed: u64, passed: &mut Passed<'_>) -> Result<(Scores, Vec<usize>), RunError> {
        let recording = &self.followed.recording;
        let TrainConfig { weight_decay, optimizer, .. } = recording.config()?.schedule;
        let (decay, adapts) = (f64::from(weight_decay), optimizer == OptimizerChoice::AdamW);
        let places: Vec<usize> = (0..self.durations.len()).collect();
        let count = SEGMENTS.min(places.len()).max(1);
        // As even as whole states go, the longer ones last.
        let cuts: Vec<usize> = (0..=count).map(|cut| cut * places.len() / count).collect();
        let parts: Vec<&[usize]> = cuts.windows(2).map(|cut| &places[cut[0]..cut[1]]).collect();
        let models = places.iter().map(|&place| self.model(place)).collect::<Result<Vec<_>, _>>()?;
        let mut segments = Vec::with_capacity(parts.len());
        for part in &parts {
            let mut metric: Option<Gradients> = None;
            for &place in part.iter().filter(|_| adapts) {
                let found = self.metric(place, &models[place])?;
                metric = Some(match metric {
                    None => found,
                    Some(sum) => Gradients {
                        layout: sum.layout,
                        blocks: sum.blocks.into_iter().zip(found.blocks).map(|(a, b)| a + b).collect(),
                    },
                });
            }
            let of_blocks = |all: &Gradients, of: &dyn Fn(Tensor<3>) -> Tensor<3>| {
                let blocks = all.blocks.iter().map(|block| of(block.clone())).collect();
                Gradients { layout: all.layout.clone(), blocks }
            };
            let metric = metric.map(|sum| of_blocks(&sum, &|block| block.div_scalar(part.len() as f64)));
            let factors = metric.as_ref().map(|metric| of_blocks(metric, &|block| block.sqrt().recip()));
            let estimate = labels_of(seed);
            let of = |&place: &usize| CurvatureSource { task: &models[place], batches: self.train, estimate };
            let sources: Vec<CurvatureSource<'_, K::Model, &[_]>> = part.iter().map(of).collect();
            let all = Joined(sources.iter().map(|source| source as &dyn Source).collect());
            let options =
                Options { method: Method::inverse(Storage::TwoSided { corrected: true }, Exact), ..Options::default() };
            let found = match &factors {
                Some(factors) => curvature(&ScaledSource { source: &all, factors }, &options)?,
                None => curvature(&all, &options)?,
            };
            let duration = part.iter().map(|&place| self.durations[place]).sum();
            segments.push(Segment { duration, decay, metric, curvature: found });
            passed(3 * part.len())?;
        }
        let queries = query_gradients(&TaskSource::query(&self.followed.ended, self.query), self.mode)?;
        let x = through_segments(&queries, &segments)?;
        let mut total = TracIn::default();
        for (part, x) in parts.iter().zip(&x) {
            for &place in *part {
                // The mean of the gradients in a segment.
                total.add(1.0 / part.len() as f64, self.products(&models[place], x)?)?;
                passed(1)?;
            }
        }
        Ok((total.finish()?.scores, parts.iter().map(|part| part.len()).collect()))
    }

    /// The inner products of queries with the training gradients at a state.
    fn products(&self, model: &K::Model, x: &Gradients) -> Result<hyperinf_scoring::Attribution, ScoreError> {
        let options = Options { method: Method::Identity, query: QueryMode::Each, ..Options::default() };
        attribute(&TaskSource::train(model, self.train), x, CurvatureFrom::Training, &options)
    }
}
