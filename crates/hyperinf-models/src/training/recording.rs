//! Recordings: states of a training run from which each of its steps can be taken again.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, Checkpoints};
use super::finetune::{BestState, FinetuneConfig, FinetunedModel};
use super::fingerprint::{Fingerprint, RunDifference};
use super::pieces::losses_of;
use super::recording_file::{Place, Shape, failed, preamble, read_header, read_tensors, tensor_hash};
use super::train::{Run, State};
use crate::files::weights::{Selection, read, write};
use crate::{ModelError, SampleModel};

/// What a training run leaves so that it can be differentiated: the states at some of its steps, from the first on, and
/// the parameters that it ended with. Between two states the steps are taken again.
///
/// A file holds the trained parameters and AdamW's moments of each state (`STEP/parameter/PATH`, `STEP/moment_1/PATH`,
/// `STEP/moment_2/PATH`) and the last parameters (`last/PATH`), with a hash of each. States are read one at a time.
pub struct Recording {
    header: Header,
    source: Source,
    weights: Option<Vec<f64>>,
}

enum Source {
    File {
        path: PathBuf,
        /// Where each tensor is in the file, its shape and its type.
        places: BTreeMap<String, Place>,
    },
    Held {
        states: Vec<Checkpoint>,
        last: BTreeMap<String, TensorData>,
    },
}

#[derive(Clone, Serialize, Deserialize)]
struct Header {
    version: u32,
    hyperinf_version: String,
    states: Vec<StateHeader>,
    /// The steps that lead to the last parameters.
    steps: usize,
    last_xxh3_128: String,
    run: Fingerprint,
}

#[derive(Clone, Serialize, Deserialize)]
struct StateHeader {
    step: usize,
    /// The optimizer's step count of each parameter.
    counts: BTreeMap<String, usize>,
    xxh3_128: String,
}

const VERSION: u32 = 1;
/// The entry of the file's metadata.
const ENTRY: &str = "hyperinf_recording";
impl Recording {
    /// The usual name of the file.
    pub const FILE: &'static str = "recording.safetensors";

    /// The steps between states that keep the file and the memory of a replay alike: `⌈√steps⌉`.
    pub fn usual_spacing(steps: usize) -> usize {
        ((steps as f64).sqrt().ceil() as usize).max(1)
    }

    /// The bytes of a recording of a run with so many bytes of trained parameters.
    pub fn bytes(parameters: u64, steps: usize, every: usize) -> u64 {
        // The first state has no moments yet, and the last parameters have none.
        parameters * (3 * steps.div_ceil(every.max(1)) as u64 - 1)
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`ModelError::Recording`] if the file is missing, damaged, or written by another version.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let bad = |reason: String| failed(path, reason);
        let (text, places) = read_header(path, ENTRY)?;
        let header: Header = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if header.version != VERSION {
            return Err(bad(format!("it has version {}, this program reads {VERSION}", header.version)));
        }
        if header.states.first().is_none_or(|first| first.step != 0) {
            return Err(bad("it has no state before the first step".into()));
        }
        let ends = header.states.iter().skip(1).map(|state| state.step).chain([header.steps]);
        if header.states.iter().zip(ends).any(|(state, end)| state.step >= end) {
            return Err(bad("its states are not in the order of their steps".into()));
        }
        Ok(Self { header, source: Source::File { path: path.to_owned(), places }, weights: None })
    }

    /// Whether a file says that it is a recording.
    pub fn is_one(path: &Path) -> bool {
        read_header(path, ENTRY).is_ok()
    }

    /// Trains a model and holds the states in memory, `every` steps apart; the steps are those of
    /// [`finetune`](crate::finetune) without validation samples, or the first `until` of them. `after` is called after
    /// every step.
    ///
    /// # Errors
    ///
    /// As [`finetune`](crate::finetune); [`ModelError::Stopped`] if `after` breaks off.
    pub fn of_training<M: SampleModel>(
        model: M,
        train: &[M::Sample],
        config: &FinetuneConfig,
        every: usize,
        until: Option<usize>,
        mut after: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self, ModelError> {
        config.validate(None)?;
        let state = State::new(model, &config.schedule);
        let run = Fingerprint::of(&state.module, train, None, config)?;
        let lengths: Vec<usize> = train.iter().map(M::length).collect();
        let none = BestState::default();
        let mut states = vec![Checkpoint::of(&state, &none)?];
        let steps = config.schedule.steps(train.len());
        let steps = until.map_or(steps, |until| until.clamp(1, steps.max(1)));
        let training = training(config, &lengths, config.weights.as_deref());
        let losses = |model: &M, rows: &[usize]| losses_of(model, train, rows);
        let state = training.go(state, losses, |state, _| {
            if state.step.is_multiple_of(every.max(1)) && state.step < steps {
                states.push(Checkpoint::of(state, &none)?);
            }
            match after(state.step) {
                ControlFlow::Continue(()) if state.step == steps => Ok(ControlFlow::Break(())),
                ControlFlow::Continue(()) => Ok(ControlFlow::Continue(())),
                ControlFlow::Break(()) => Err(ModelError::Stopped { step: state.step, steps, checkpoint: None }),
            }
        })?;
        let last = read(&state.module, Selection::Trained)?;
        let header = header(states.iter().map(state_header).collect(), steps, &last, run);
        Ok(Self { header, source: Source::Held { states, last }, weights: config.weights.clone() })
    }

    /// Writes the file of a run that was recorded with these checkpoints, which had
    /// [`record`](Checkpoints::record); returns the number of its states.
    ///
    /// # Errors
    ///
    /// [`ModelError::Checkpoint`] if a state is missing or damaged, [`ModelError::CheckpointWrite`] if the file cannot be
    /// written.
    pub fn write<M: SampleModel>(
        tuned: &FinetunedModel<M>,
        checkpoints: &Checkpoints,
        path: &Path,
        out: &mut dyn Write,
    ) -> Result<usize, ModelError> {
        let last = read(&tuned.model.clone().train(), Selection::Trained)?;
        let steps = tuned.best.map_or(tuned.steps, |best| best.steps);
        let (mut states, mut sizes, mut run) = (Vec::new(), Vec::new(), None);
        for step in (0..steps).step_by(checkpoints.every) {
            let (state, of) = checkpoints.at(step)?;
            let state = without_best(state);
            states.push(state_header(&state));
            sizes.extend(state.tensors.iter().map(|(name, data)| (format!("{step:08}/{name}"), Shape::of(data))));
            let run: &Fingerprint = run.get_or_insert_with(|| of.clone());
            if !run.differences(&of).is_empty() {
                let differences = run.differences(&of);
                return Err(ModelError::CheckpointDiffers { path: checkpoints.folder.clone(), differences });
            }
        }
        let run = run.ok_or(ModelError::Empty { what: "steps that were recorded" })?;
        sizes.extend(last.iter().map(|(name, data)| (format!("last/{name}"), Shape::of(data))));
        let count = states.len();
        let text = serde_json::to_string(&header(states, steps, &last, run)).map_err(|e| failed(path, e))?;
        let bytes = preamble(&sizes, ENTRY, &text).map_err(|reason| failed(path, reason))?;
        let unwritten = |source| ModelError::CheckpointWrite { path: path.to_owned(), source };
        out.write_all(&bytes).map_err(unwritten)?;
        for step in (0..steps).step_by(checkpoints.every) {
            for data in without_best(checkpoints.at(step)?.0).tensors.values() {
                out.write_all(data.as_bytes()).map_err(unwritten)?;
            }
        }
        last.values().try_for_each(|data| out.write_all(data.as_bytes())).map_err(unwritten)?;
        Ok(count)
    }

    /// The settings of the steps.
    ///
    /// # Errors
    ///
    /// [`ModelError::Recording`] if they cannot be read, [`ModelError::Setting`] if one is out of range.
    pub fn config(&self) -> Result<FinetuneConfig, ModelError> {
        let config = self.header.run.config().map_err(|reason| failed(self.path(), reason))?;
        let config = FinetuneConfig { weights: self.weights.clone(), ..config };
        config.validate(None)?;
        Ok(config)
    }

    /// Everything that determined the run, by name.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        self.header.run.settings()
    }

    /// The steps at which there are states, the first of them 0.
    pub fn states(&self) -> Vec<usize> {
        self.header.states.iter().map(|state| state.step).collect()
    }

    /// The steps that lead to the last parameters: those of the best evaluation, if there were any.
    pub fn steps(&self) -> usize {
        self.header.steps
    }

    /// The version of the program that recorded it.
    pub fn version(&self) -> &str {
        &self.header.hyperinf_version
    }

    /// The file, or an empty path.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::File { path, .. } => path,
            Source::Held { .. } => Path::new(""),
        }
    }

    /// Fails unless the run of this model on these samples is the one that was recorded; `settings` are those of
    /// [`Checkpoints::settings`] that must be the same.
    ///
    /// # Errors
    ///
    /// [`ModelError::RecordingDiffers`] with the differences.
    pub fn check<M: SampleModel>(
        &self,
        model: &M,
        train: &[M::Sample],
        settings: BTreeMap<String, String>,
    ) -> Result<(), ModelError> {
        let checkpoints = Checkpoints { settings, ..Checkpoints::new("") };
        let config = FinetuneConfig { checkpoints: Some(checkpoints), ..self.config()? };
        let differences: Vec<RunDifference> =
            self.header.run.differences_of_steps(&Fingerprint::of(&model.clone().train(), train, None, &config)?);
        if differences.is_empty() {
            return Ok(());
        }
        Err(ModelError::RecordingDiffers { path: self.path().to_owned(), differences })
    }

    /// A model with the parameters that the training ended with, as `valid()`.
    ///
    /// # Errors
    ///
    /// If the parameters are not those of the model, or the file is damaged.
    pub fn apply<M: Module>(&self, model: M) -> Result<M, ModelError> {
        Ok(write(model.train(), self.last()?, Selection::Trained)?.valid())
    }

    /// The weights of the losses, if they have any.
    pub(super) fn weights(&self) -> Option<&[f64]> {
        self.weights.as_deref()
    }

    /// The state at a place of [`states`](Self::states).
    pub(super) fn state(&self, place: usize) -> Result<Checkpoint, ModelError> {
        let StateHeader { step, counts, xxh3_128 } = &self.header.states[place];
        match &self.source {
            Source::Held { states, .. } => Ok(states[place].clone()),
            Source::File { path, places } => {
                let tensors = read_tensors(path, places, &format!("{step:08}/"))?;
                if tensor_hash(&tensors) != *xxh3_128 {
                    return Err(failed(path, format!("its numbers at step {step} are not those that were written")));
                }
                Ok(Checkpoint::plain(*step, counts.clone(), tensors))
            }
        }
    }

    /// The parameters at the end.
    pub(super) fn last(&self) -> Result<BTreeMap<String, TensorData>, ModelError> {
        match &self.source {
            Source::Held { last, .. } => Ok(last.clone()),
            Source::File { path, places } => {
                let last = read_tensors(path, places, "last/")?;
                if tensor_hash(&last) != self.header.last_xxh3_128 {
                    return Err(failed(path, "its last numbers are not those that were written"));
                }
                Ok(last)
            }
        }
    }
}

/// The steps of a configuration.
pub(super) fn training<'a>(config: &'a FinetuneConfig, lengths: &'a [usize], weights: Option<&'a [f64]>) -> Run<'a> {
    let FinetuneConfig { schedule, micro_batch, clip_norm, .. } = config;
    Run { lengths, config: schedule, micro_batch: *micro_batch, clip_norm: *clip_norm, weights, team: None }
}

fn header(states: Vec<StateHeader>, steps: usize, last: &BTreeMap<String, TensorData>, run: Fingerprint) -> Header {
    let hyperinf_version = env!("CARGO_PKG_VERSION").to_owned();
    Header { version: VERSION, hyperinf_version, states, steps, last_xxh3_128: tensor_hash(last), run }
}

fn state_header(state: &Checkpoint) -> StateHeader {
    StateHeader { step: state.step(), counts: state.counts().clone(), xxh3_128: tensor_hash(&state.tensors) }
}

fn without_best(mut state: Checkpoint) -> Checkpoint {
    state.tensors.retain(|name, _| !name.starts_with("best/"));
    state
}
