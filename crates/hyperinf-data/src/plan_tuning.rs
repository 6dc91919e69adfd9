//! [`Finetune::plan`](crate::Finetune::plan): the measurement.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use hyperinf_models::{
    Adaptable, Adapter, CheckpointNames, FinetuneConfig, ModelError, Recording, SampleModel, TrainConfig,
    finetune_until,
};
use hyperinf_store::{available, resident};

use crate::RunError;
use crate::event::{Event, Notice};
use crate::finetune::Finetune;
use crate::finetune_of_kind::{MEASURED, Ready, ready};
use crate::kind::{Kind, Prepared};
use crate::model_files::{ModelFiles, load_error};
use crate::plan::{PlannedDisk, PlannedMemory, RunPlan, TRAINING};
use crate::plan_gradients::{middle, predictions};
use crate::plan_of_kind::rows;
use crate::plan_probe::{Measured, PATIENCE, measure, step};
use crate::room::Growth;
use crate::samples::Samples;
use crate::stage::Stage;
use crate::tuning::size;

/// Bytes of a trained number, and its copies in a checkpoint: itself, two moments, and the best so far.
pub(crate) const NUMBER: u64 = 4;
const COPIES: u64 = 4;
/// Checkpoints that are on the disk at once: those that are kept, and one that is being written.
const CHECKPOINTS: u64 = 3;

pub(crate) fn plan<K: Kind>(
    run: &Finetune,
    files: &ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<RunPlan, RunError> {
    let began = Instant::now();
    let Ready { prepared, rows: set, validation, .. } = ready::<K>(run, files, device, observe)?;
    let Prepared { model, processor } = prepared;
    let schedule = run.recipe.schedule(&K::training());
    let mut steps = vec![step("loading", began.elapsed().as_secs_f64(), String::new())];
    let began = Instant::now();
    let _listening = run.stop.listen();
    let micro_batch = run.micro_batch.unwrap_or(schedule.batch_size);
    let trial = Trial { run, model: &model, set: &set, schedule };
    let lengths = set.lengths();
    let Measured { curve, batch, memory, order } =
        measure(&lengths, micro_batch, device, &mut |batch| trial.step(batch))?;
    let pieces = schedule.batches(&lengths).into_iter().flat_map(|batch| {
        let pieces: Vec<_> = batch.chunks(micro_batch).map(|piece| (longest(piece, &lengths), piece.len())).collect();
        pieces
    });
    let (of_epoch, _) = curve.total(pieces);
    let total = schedule.steps(lengths.len());
    let work = format!("{total} steps of {} rows", schedule.batch_size.min(lengths.len()));
    steps.push(step("training", schedule.epochs as f64 * of_epoch, work));

    // Without gradients: the training rows after, and before where a model may be good then; the others per epoch.
    let measured = lengths.len().min(MEASURED);
    let of_training = measured * if K::labels(&processor).is_some() { 1 } else { 2 };
    let others = validation.as_ref().map(Samples::lengths).unwrap_or_default();
    let batch_rows = middle(&order, micro_batch);
    let share =
        predictions::<K>(&model, &set, batch_rows)? / curve.seconds(lengths[order[order.len() / 2]], 1).max(1e-12);
    let each = curve.total(lengths.iter().map(|&length| (length, 1))).0 / lengths.len() as f64;
    let of_others = curve.total(others.iter().map(|&length| (length, 1))).0 * (schedule.epochs + 1) as f64;
    let evaluated = of_training + others.len() * (schedule.epochs + 1);
    let seconds = share * (of_training as f64 * each + of_others);
    steps.push(step("evaluation", seconds, format!("{evaluated} rows")));

    let (parameters, blocks) = run.trained(&model)?;
    let held = resident().unwrap_or(0.0);
    Ok(RunPlan {
        command: TRAINING,
        train: rows(&set),
        query: validation.iter().map(rows).collect(),
        blocks,
        parameters,
        batch,
        steps,
        memory: PlannedMemory { batches: memory, scores: None, available: available().map(|free| free + held) },
        disk: PlannedDisk::new(&run.out, run.bytes((parameters, blocks), &schedule, lengths.len())),
        refusal: None,
        measured: began.elapsed().as_secs_f64(),
    })
}

impl Finetune {
    /// Trained parameters, and the tensors that hold them.
    pub(crate) fn trained<M: Adaptable + CheckpointNames>(&self, model: &M) -> Result<(usize, usize), RunError> {
        let adapter = Adapter::from_model(model, &self.lora, None);
        Ok(size(&adapter.map_err(load_error("adapter", self.out.display()))?))
    }

    /// Warns if batches or checkpoints will not fit.
    pub(crate) fn warn_of_room<K: Kind>(
        &self,
        model: &K::Model,
        set: &Samples<K>,
        schedule: TrainConfig,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RunError> {
        let rows = self.micro_batch.unwrap_or(schedule.batch_size).min(set.samples.len());
        let order = set.by_length();
        let trial = Trial { run: self, model, set, schedule };
        let growth = Growth::of(device, rows, &mut |rows| trial.step(&order[order.len() - rows..]).map(drop))?;
        let batches = growth.and_then(|growth| growth.shortage(rows));
        let disk = PlannedDisk::new(&self.out, self.bytes(self.trained(model)?, &schedule, set.samples.len()));
        batches.into_iter().chain(disk.shortage()).for_each(|shortage| {
            observe(Event::Notice(Notice::Shortage(shortage)));
        });
        Ok(())
    }

    /// The bytes of an adapter of so many parameters, with its checkpoints, after a training on so many rows. Those of a
    /// recording are there until it is written, too.
    pub(crate) fn bytes(&self, (parameters, _): (usize, usize), schedule: &TrainConfig, rows: usize) -> u64 {
        if self.record {
            let one = parameters as u64 * NUMBER;
            let recording = Recording::bytes(one, schedule.steps(rows), self.spacing(schedule, rows));
            return one + 2 * recording;
        }
        let checkpoints = if self.checkpoint_every.is_some() || self.resume { CHECKPOINTS } else { 0 };
        parameters as u64 * NUMBER * (1 + COPIES * checkpoints)
    }
}

fn longest(rows: &[usize], lengths: &[usize]) -> usize {
    rows.iter().map(|&row| lengths[row]).max().unwrap_or(0)
}

/// Steps on copies of a model.
pub(crate) struct Trial<'a, K: Kind> {
    pub(crate) run: &'a Finetune,
    pub(crate) model: &'a K::Model,
    pub(crate) set: &'a Samples<K>,
    pub(crate) schedule: TrainConfig,
}

impl<K: Kind> Trial<'_, K> {
    /// Trains a copy of the model on one batch, in two steps unless one takes long. Returns the seconds of the last.
    pub(crate) fn step(&self, batch: &[usize]) -> Result<f64, RunError> {
        if self.run.stop.is_requested() {
            let total = self.set.samples.len();
            return Err(RunError::Stopped { stage: Stage::Finetuning, done: 0, total, kept: None });
        }
        let samples: Vec<<K::Model as SampleModel>::Sample> =
            batch.iter().map(|&row| self.set.samples[row].clone()).collect();
        let schedule = TrainConfig { epochs: 2, batch_size: samples.len(), ..self.schedule };
        let config = FinetuneConfig { schedule, ..FinetuneConfig::default() };
        let mut mark = Instant::now();
        let mut seconds = 0.0;
        let done = finetune_until(self.model.clone(), &samples, None, &config, |_| {
            seconds = std::mem::replace(&mut mark, Instant::now()).elapsed().as_secs_f64();
            if seconds > PATIENCE / 10.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match done {
            Ok(_) | Err(ModelError::Stopped { .. }) => Ok(seconds),
            Err(error) => Err(error.into()),
        }
    }
}
