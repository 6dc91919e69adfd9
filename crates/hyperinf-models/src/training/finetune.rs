use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::TensorData;
use hyperinf_gradients::Tape;

use super::checkpoint::{Checkpoint, Checkpoints};
use super::fingerprint::Fingerprint;
use super::pieces::{PieceTeam, losses_of};
use super::train::{Run, State};
use crate::error::check;
use crate::files::weights::{Selection, read, write};
use crate::{ModelError, Progress, SampleModel, TrainConfig};

/// The settings of fine-tuning.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `schedule` | see [`TrainConfig`] | steps and learning rates | |
/// | `micro_batch` | none | samples per forward and backward pass; gradients are summed over a batch | ≥ 1 |
/// | `clip_norm` | none | largest norm of a step's gradient over all parameters | finite, > 0 |
/// | `evaluate_every` | none | steps between evaluations; if none, an epoch | ≥ 1 |
/// | `patience` | none | evaluations without improvement before the run stops | ≥ 1 |
/// | `weights` | none | a weight of each sample's loss; the divisor of a batch stays its number of samples | finite |
/// | `checkpoints` | none | where and how often the run is saved | |
///
/// A value outside its range is a [`ModelError::Setting`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FinetuneConfig {
    /// Steps and learning rates.
    pub schedule: TrainConfig,
    /// Samples per forward and backward pass. The result is that of the whole batch, up to rounding.
    pub micro_batch: Option<usize>,
    /// The largest norm of a step's gradient over all trained parameters together. Larger gradients are scaled down.
    pub clip_norm: Option<f64>,
    /// Steps between evaluations on the validation samples. There is always one after the last step.
    pub evaluate_every: Option<usize>,
    /// Consecutive evaluations without a lower loss before the run stops.
    pub patience: Option<usize>,
    /// A weight of each sample's loss; all are 1 if there are none. The mean loss of a batch is still divided by the number
    /// of its samples, so that a weight of 0 takes a sample out of its batches and leaves all else as it is.
    pub weights: Option<Vec<f64>>,
    /// Where and how often the run is saved.
    pub checkpoints: Option<Checkpoints>,
}

/// A fine-tuned model and a summary of its run.
#[derive(Debug)]
pub struct FinetunedModel<M> {
    /// The model, as `valid()`: that of the best evaluation if there are validation samples, otherwise that of the last
    /// step.
    pub model: M,
    /// The steps taken, including those before a resumption.
    pub steps: usize,
    /// The step at which the run resumed, if it did.
    pub resumed_at: Option<usize>,
    /// The best evaluation.
    pub best: Option<Evaluation>,
    /// Whether patience ran out before the last step.
    pub stopped_early: bool,
}

/// The mean loss on the validation samples after a number of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// The steps taken.
    pub steps: usize,
    /// The mean loss.
    pub loss: f64,
}

/// The best evaluation so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct BestState {
    pub(crate) evaluation: Option<Evaluation>,
    /// The trained parameters at that evaluation.
    pub(crate) values: BTreeMap<String, TensorData>,
    /// The number of evaluations since then.
    pub(crate) stale: usize,
}

/// Fine-tunes the parameters of a model that are not frozen, as [`train`](crate::train) does, on samples.
///
/// With validation samples, the parameters with the lowest mean loss are returned. With checkpoints, an interrupted run
/// resumes from the newest one and ends with the same parameters, bit for bit, on the same machine. `progress` is
/// called after every step.
///
/// # Errors
///
/// If the configuration is invalid or needs validation samples that are not given; if there are no samples or one does
/// not fit the model; if every parameter is frozen; if a loss or gradient is not finite; if checkpoints cannot be
/// written or read, or belong to another run.
pub fn finetune<M: SampleModel>(
    model: M,
    train: &[M::Sample],
    validation: Option<&[M::Sample]>,
    config: &FinetuneConfig,
    mut progress: impl FnMut(&Progress),
) -> Result<FinetunedModel<M>, ModelError> {
    finetune_until(model, train, validation, config, |step| {
        progress(step);
        ControlFlow::Continue(())
    })
}

/// As [`finetune`], but `progress` may stop the run after a step.
///
/// A run that is stopped before its last step writes a checkpoint, if there is a place for checkpoints, whatever
/// [`Checkpoints::every`] says.
///
/// # Errors
///
/// As [`finetune`], or [`ModelError::Stopped`].
pub fn finetune_until<M: SampleModel>(
    model: M,
    train: &[M::Sample],
    validation: Option<&[M::Sample]>,
    config: &FinetuneConfig,
    progress: impl FnMut(&Progress) -> ControlFlow<()>,
) -> Result<FinetunedModel<M>, ModelError> {
    finetune_shared(model, train, validation, config, None, progress)
}

/// As [`finetune_until`], but other processes take gradients of the pieces of a batch, `micro_batch` samples each. The
/// result is that of one process, bit for bit.
///
/// # Errors
///
/// As [`finetune_until`], or [`ModelError::Helpers`].
pub fn finetune_shared<M: SampleModel>(
    model: M,
    train: &[M::Sample],
    validation: Option<&[M::Sample]>,
    config: &FinetuneConfig,
    team: Option<&dyn PieceTeam>,
    mut progress: impl FnMut(&Progress) -> ControlFlow<()>,
) -> Result<FinetunedModel<M>, ModelError> {
    config.validate(validation.map(<[_]>::len))?;
    if let Some(weights) = &config.weights {
        if weights.len() != train.len() {
            return Err(ModelError::Weights { weights: weights.len(), samples: train.len() });
        }
        if team.is_some() {
            return Err(ModelError::Helpers { reason: "the losses have weights, which other processes lack".into() });
        }
    }
    let lengths: Vec<usize> = train.iter().map(M::length).collect();
    let mut state = State::new(model, &config.schedule);
    let mut best = BestState::default();
    let mut resumed_at = None;
    // Weights are large: a run that neither writes nor reads a checkpoint does not hash them.
    let mut fingerprint = None;
    if let Some(checkpoints) = &config.checkpoints
        && let Some((saved, run)) = checkpoints.open(|| Fingerprint::of(&state.module, train, validation, config))?
    {
        (state, best) = saved.into_state(state)?;
        (resumed_at, fingerprint) = (Some(state.step), Some(run));
    }
    if let Some(checkpoints) = config.checkpoints.as_ref().filter(|found| found.record && resumed_at.is_none()) {
        let run = Fingerprint::of(&state.module, train, validation, config)?;
        checkpoints.write(&Checkpoint::of(&state, &best)?, &run)?;
        fingerprint = Some(run);
    }

    let steps = config.schedule.steps(train.len());
    let every = config.evaluate_every.unwrap_or(train.len().div_ceil(config.schedule.batch_size).max(1));
    let out_of_patience = |best: &BestState| config.patience.is_some_and(|patience| best.stale >= patience);
    let losses = |model: &M, rows: &[usize]| losses_of(model, train, rows);
    let run = Run {
        lengths: &lengths,
        config: &config.schedule,
        micro_batch: config.micro_batch,
        clip_norm: config.clip_norm,
        weights: config.weights.as_deref(),
        team,
    };
    if !out_of_patience(&best) {
        state = run.go(state, losses, |state, after| {
            if let Some(samples) = validation
                && (state.step.is_multiple_of(every) || state.step == steps)
            {
                let piece = config.micro_batch.unwrap_or(config.schedule.batch_size);
                let loss = mean_loss(&state.module.valid(), samples, piece)?;
                best.note(state, loss)?;
                after.validation = Some(loss);
            }
            let stopped = progress(after).is_break() && state.step < steps;
            let mut checkpoint = None;
            if let Some(checkpoints) = &config.checkpoints
                && (stopped || state.step.is_multiple_of(checkpoints.every))
            {
                let run = match fingerprint.take() {
                    Some(run) => run,
                    None => Fingerprint::of(&state.module, train, validation, config)?,
                };
                checkpoint = Some(checkpoints.write(&Checkpoint::of(state, &best)?, &run)?);
                fingerprint = Some(run);
            }
            if stopped {
                return Err(ModelError::Stopped { step: state.step, steps, checkpoint });
            }
            Ok(if out_of_patience(&best) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    let stopped_early = state.step < steps;
    let taken = state.step;
    let module =
        if best.values.is_empty() { state.module } else { write(state.module, best.values, Selection::Trained)? };
    Ok(FinetunedModel { model: module.valid(), steps: taken, resumed_at, best: best.evaluation, stopped_early })
}

impl FinetuneConfig {
    /// Fails if a value is outside its range, given the number of validation samples, if any. [`finetune`] calls this.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first value outside its range; [`ModelError::Empty`] if validation samples are
    /// needed and there are none.
    pub fn validate(&self, validation: Option<usize>) -> Result<(), ModelError> {
        self.schedule.validate()?;
        let at_least_one = |name, value: Option<usize>| {
            check(value.is_none_or(|value| value >= 1), name, value.unwrap_or(0) as f64, "at least 1")
        };
        at_least_one("micro_batch", self.micro_batch)?;
        at_least_one("evaluate_every", self.evaluate_every)?;
        at_least_one("patience", self.patience)?;
        at_least_one("checkpoints.every", self.checkpoints.as_ref().map(|c| c.every))?;
        at_least_one("checkpoints.keep", self.checkpoints.as_ref().map(|c| c.keep))?;
        let bad = self.weights.iter().flatten().find(|weight| !weight.is_finite());
        check(bad.is_none(), "weights", bad.copied().unwrap_or(1.0), "finite")?;
        let norm = self.clip_norm.unwrap_or(1.0);
        check(norm.is_finite() && norm > 0.0, "clip_norm", norm, "positive and finite")?;
        match validation {
            Some(0) => Err(ModelError::Empty { what: "validation samples" }),
            None if self.patience.is_some() || self.evaluate_every.is_some() => {
                Err(ModelError::Empty { what: "validation samples, which `patience` and `evaluate_every` need" })
            }
            _ => Ok(()),
        }
    }
}

impl BestState {
    fn note<M: SampleModel>(&mut self, state: &State<M>, loss: f64) -> Result<(), ModelError> {
        if self.evaluation.is_none_or(|best| loss < best.loss) {
            let evaluation = Some(Evaluation { steps: state.step, loss });
            *self = Self { evaluation, values: read(&state.module, Selection::Trained)?, stale: 0 };
        } else {
            self.stale += 1;
        }
        Ok(())
    }
}

/// The mean loss of samples, computed `piece` samples at a time.
fn mean_loss<M: SampleModel>(model: &M, samples: &[M::Sample], piece: usize) -> Result<f64, ModelError> {
    let mut order: Vec<&M::Sample> = samples.iter().collect();
    order.sort_by_key(|sample| M::length(sample));
    let mut sum = 0.0;
    for samples in order.chunks(piece) {
        let batch = model.collate(samples)?;
        let losses = model.loss(model.forward(&batch, &mut Tape::off()), &batch);
        let data = losses.try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
        sum += data.iter::<f64>().sum::<f64>();
    }
    let mean = sum / samples.len() as f64;
    if mean.is_finite() { Ok(mean) } else { Err(ModelError::Validation { value: mean }) }
}
