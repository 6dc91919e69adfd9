use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::TensorData;
use hyperinf_gradients::Tape;

use crate::checkpoint::{Checkpoints, Fingerprint, Saved};
use crate::error::check;
use crate::train::{Run, State};
use crate::weights::{Which, read, write};
use crate::{ModelError, Progress, TextModel, TrainConfig};

/// How a [`TextModel`] is fine-tuned.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `schedule` | see [`TrainConfig`] | steps and learning rates | |
/// | `micro_batch` | none | samples of a forward and backward pass, whose gradients are summed up to a batch | ≥ 1 |
/// | `clip_norm` | none | the largest norm of a step's gradient over all parameters | finite, > 0 |
/// | `evaluate_every` | none | steps between evaluations; at the end of each epoch, if none | ≥ 1 |
/// | `patience` | none | evaluations without improvement after which to stop | ≥ 1 |
/// | `checkpoints` | none | where and how often the state is kept | |
///
/// A value outside its range is a [`ModelError::Setting`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FinetuneConfig {
    /// Steps and learning rates.
    pub schedule: TrainConfig,
    /// Samples that go through the model at once; the result is that of the whole batch up to rounding.
    pub micro_batch: Option<usize>,
    /// The largest norm of a step's gradient over all trained parameters together; larger ones are scaled down to it.
    pub clip_norm: Option<f64>,
    /// Steps between two evaluations on the validation samples. The last step is always followed by one.
    pub evaluate_every: Option<usize>,
    /// Evaluations in a row without a lower loss after which the run stops.
    pub patience: Option<usize>,
    /// Where and how often the state is kept.
    pub checkpoints: Option<Checkpoints>,
}

/// A fine-tuned model, and how it came about.
#[derive(Debug)]
pub struct Finetuned<M> {
    /// The model, as `valid()`: with validation samples that of the best evaluation, otherwise that of the last step.
    pub model: M,
    /// The steps taken, those before a resumption included.
    pub steps: usize,
    /// The step at which the run was taken up, if it was.
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

/// What evaluations found so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Best {
    pub(crate) evaluation: Option<Evaluation>,
    /// The trained parameters then.
    pub(crate) values: BTreeMap<String, TensorData>,
    /// Evaluations since.
    pub(crate) stale: usize,
}

/// Trains whatever parameters of a model are not frozen, as [`train`](crate::train), on tokenized samples.
///
/// With validation samples the parameters of the lowest mean loss are returned. With checkpoints a run that was
/// broken off is taken up again where the newest one was written, and ends with the same parameters, bit for bit, on
/// the same machine. `progress` is called after every step.
///
/// # Errors
///
/// If the configuration is invalid or asks for evaluations without validation samples, there are no samples or one
/// does not fit the model, every parameter is frozen, a loss or gradient is not finite, or checkpoints cannot be
/// written, cannot be read, or are those of another run.
pub fn finetune<M: TextModel>(
    model: M,
    train: &[M::Sample],
    validation: Option<&[M::Sample]>,
    config: &FinetuneConfig,
    mut progress: impl FnMut(&Progress),
) -> Result<Finetuned<M>, ModelError> {
    config.validate(validation.map(<[_]>::len))?;
    let lengths: Vec<usize> = train.iter().map(M::tokens).collect();
    let mut state = State::new(model, &config.schedule);
    let mut best = Best::default();
    let mut resumed_at = None;
    let fingerprint = match &config.checkpoints {
        Some(checkpoints) => {
            let fingerprint = Fingerprint::of(&state.module, train, validation, config)?;
            if let Some(saved) = checkpoints.open(&fingerprint)? {
                (state, best) = saved.into_state(state)?;
                resumed_at = Some(state.step);
            }
            fingerprint
        }
        None => Fingerprint::default(),
    };

    let steps = config.schedule.steps(train.len());
    let every = config.evaluate_every.unwrap_or(train.len().div_ceil(config.schedule.batch_size).max(1));
    let out_of_patience = |best: &Best| config.patience.is_some_and(|patience| best.stale >= patience);
    let losses = |model: &M, rows: &[usize]| {
        let samples: Vec<&M::Sample> = rows.iter().map(|&row| &train[row]).collect();
        let batch = model.collate(&samples)?;
        Ok(model.loss(model.forward(&batch, &mut Tape::off()), &batch))
    };
    let run = Run {
        lengths: &lengths,
        config: &config.schedule,
        micro_batch: config.micro_batch,
        clip_norm: config.clip_norm,
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
            progress(after);
            if let Some(checkpoints) = &config.checkpoints
                && state.step.is_multiple_of(checkpoints.every)
            {
                checkpoints.write(&Saved::of(state, &best)?, &fingerprint)?;
            }
            Ok(if out_of_patience(&best) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    let stopped_early = state.step < steps;
    let taken = state.step;
    let module = if best.values.is_empty() { state.module } else { write(state.module, best.values, Which::Trained)? };
    Ok(Finetuned { model: module.valid(), steps: taken, resumed_at, best: best.evaluation, stopped_early })
}

impl FinetuneConfig {
    /// Checks it for so many validation samples, if there are any; [`finetune`] does so itself.
    ///
    /// # Errors
    ///
    /// If a value is outside its range, or needs validation samples that are not there.
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

impl Best {
    fn note<M: TextModel>(&mut self, state: &State<M>, loss: f64) -> Result<(), ModelError> {
        if self.evaluation.is_none_or(|best| loss < best.loss) {
            let evaluation = Some(Evaluation { steps: state.step, loss });
            *self = Self { evaluation, values: read(&state.module, Which::Trained)?, stale: 0 };
        } else {
            self.stale += 1;
        }
        Ok(())
    }
}

/// The mean of the samples' losses, so many at a time.
fn mean_loss<M: TextModel>(model: &M, samples: &[M::Sample], piece: usize) -> Result<f64, ModelError> {
    let mut order: Vec<&M::Sample> = samples.iter().collect();
    order.sort_by_key(|sample| M::tokens(sample));
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
