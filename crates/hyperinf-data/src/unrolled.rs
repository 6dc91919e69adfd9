//! Scores by the exact derivative through the training that made the adapter.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use hyperinf_models::{ModelError, Smoothness, Unroll, without_dropout};
use hyperinf_scoring::{QueryMode, Scores};
use serde::Serialize;

use crate::baseline::{Ranked, RowMethod};
use crate::event::{Detail, Event, Notice, Progress};
use crate::kind::Kind;
use crate::model_files::ModelFiles;
use crate::plan_tuning::NUMBER;
use crate::recorded::{Recorded, recorded};
use crate::run::Run;
use crate::stage::Stage;
use crate::{Choice, RunError, ensemble};

/// What is known of a derivative through a training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Derivative {
    /// The steps that were followed: those that led to the adapter.
    pub steps: usize,
    /// The states in the recording, between which steps were taken again; each led to the recorded numbers.
    pub states: usize,
    /// The version of the program that recorded the training.
    pub recorded_by: String,
    /// The relative error of the differences: [`Unrolled::error`](hyperinf_models::Unrolled::error).
    pub error: f64,
    /// What other weights do to the derivative, if that was asked for.
    pub smoothness: Option<Steadiness>,
}

/// What a training without some rows does to the derivative and to the queries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Steadiness {
    /// The rows that left the training.
    pub left_out: usize,
    /// The correlation of the scores of all other rows with and without those.
    pub correlation: Option<f64>,
    /// The change of the queries' mean loss that the scores foretell.
    pub foretold: f64,
    /// The change that was found.
    pub found: f64,
}

/// What is asked of a kind.
pub(crate) struct Following {
    /// The share of rows that leave the training for [`Derivative::smoothness`], and the seed that draws them.
    pub(crate) smoothness: Option<(f64, u64)>,
    /// The files of the model with its adapter.
    pub(crate) files: ModelFiles,
}

impl Run {
    /// Scores every training row for every query row, or for their mean, by the exact derivative through the training of
    /// the adapter: a row whose weight in that training is 0 instead of 1 changes the query's loss by about its score.
    /// Positive = helpful; there is no damping, and no division by the number of rows.
    ///
    /// The adapter must be one that was trained with [`Finetune::record`](crate::Finetune::record), on the same rows.
    /// The training is taken again, step by step, and must lead to the recorded numbers, bit for bit. With
    /// `smoothness`, a share of the rows and a seed, the training and its derivative are repeated without these rows.
    ///
    /// # Errors
    ///
    /// As [`Run::attribute`]; [`RunError::NoRecording`] without a recording; [`RunError::Conflict`] for choices of other
    /// methods; [`RunError::Model`] if the recording is of another training or cannot be replayed.
    pub fn unrolled(
        &self,
        smoothness: Option<(f64, u64)>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ranked, RunError> {
        self.check_recorded(RowMethod::Unrolled)?;
        let files = self.files()?;
        let kind = files.kind();
        ensemble::check(self)?;
        let found = kind.unrolled(self, Following { smoothness, files }, device, observe)?;
        self.averaged(found, |run| run.unrolled(None, device, observe))
    }

    /// Refuses choices that a method which follows the recorded training does not have.
    ///
    /// # Errors
    ///
    /// [`RunError::Conflict`].
    pub fn check_recorded(&self, method: RowMethod) -> Result<(), RunError> {
        let refused = |second, reason| Err(RunError::Conflict { first: method.choice(), second, reason });
        if self.blocks.is_some() {
            return refused(Choice::Blocks, "the training changed all blocks together");
        }
        if self.index.is_some() {
            return refused(Choice::Index, "no gradients are stored: those of every step are taken again");
        }
        if self.projection.is_some() {
            return refused(Choice::Projection, "nothing is projected: every trained parameter is followed");
        }
        if self.positions.is_some() {
            return refused(Choice::Positions, "weights belong to rows");
        }
        Ok(())
    }
}

/// [`Run::unrolled`] of one kind of model.
pub(crate) fn unrolled<K: Kind>(
    run: &Run,
    following: Following,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Ranked, RunError> {
    let Following { smoothness, files } = following;
    let followed = recorded::<K>(run, &files, device, observe)?;
    let predictions = followed.predictions(run, observe)?;
    let Recorded { recording, tuning, prepared, train, query, .. } = &followed;
    let model = &prepared.model;
    let measured = without_dropout(model.clone());

    let (steps, states) = (recording.steps(), recording.states());
    let mean = run.options.query == QueryMode::Mean;
    let directions = if mean { 1 } else { query.samples.len() };
    let again = if smoothness.is_some() { 5 * steps } else { 0 };
    let held = states.iter().zip(states[1..].iter().chain([&steps])).map(|(a, b)| b - a).max().unwrap_or(0);
    let (parameters, _) = tuning.trained(model)?;
    observe(Event::Notice(Notice::Unrolling {
        steps,
        directions,
        passes: (2 + 2 * directions) * steps + again,
        // A step holds the parameters, their gradient and two moments.
        bytes: (parameters * held) as u64 * NUMBER * 4,
    }));
    let _listening = run.stop.listen();
    let (train_samples, queries) = (&train.samples, &query.samples);
    let unroll = Unroll { model, measured: &measured, train: train_samples, queries, mean, recording, length: None };
    let total = steps * if smoothness.is_some() { 3 } else { 1 };
    let (began, mut done) = (Instant::now(), 0);
    let mut step = |_: usize| {
        done += 1;
        let detail = Detail::Speed(done as f64 / began.elapsed().as_secs_f64().max(1e-9), "steps");
        observe(Event::Progress(Progress { stage: Stage::Unrolling, done, total, detail }));
        if run.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let stopped = |error: ModelError| match error {
        ModelError::Stopped { step: done, .. } => {
            RunError::Stopped { stage: Stage::Unrolling, done, total, kept: None }
        }
        error => error.into(),
    };
    let found = unroll.run(&mut step).map_err(stopped)?;
    let smoothness = match smoothness {
        Some((share, seed)) => {
            let Smoothness { left_out, correlation, foretold, found } =
                unroll.smoothness(&found, share, seed, &mut step).map_err(stopped)?;
            Some(Steadiness { left_out: left_out.len(), correlation, foretold, found })
        }
        None => None,
    };

    let (recorded_by, error) = (recording.version().to_owned(), found.error);
    let derivative = Derivative { steps, states: states.len(), recorded_by, error, smoothness };
    let scores = Scores { rows: found.scores };
    let ranked = followed.ranked(run, RowMethod::Unrolled, predictions, scores, files);
    Ok(Ranked { derivative: Some(derivative), ..ranked })
}
