use std::collections::BTreeMap;

use hyperinf_models::{Adapter, LoraConfig, LoraScaling, OptimizerChoice, TrainConfig};
use serde::Serialize;
use serde_json::{Value, json};

use crate::dataset::Dataset;
use crate::event::{Event, Notice, Purpose, warn_of};
use crate::finetune::Finetune;
use crate::model_files::ModelFiles;
use crate::quality::{Quality, Verdict};

/// How well a model predicts before and after its training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuningQuality {
    /// On the training rows before it, of a language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_before: Option<Quality>,
    /// On the training rows, of many on 1,000 that are evenly spread.
    pub train: Quality,
    /// On the validation rows.
    pub validation: Option<Quality>,
}

/// `summary.json` next to an adapter: its rows, settings and quality. Nothing in it depends on the time or on
/// interruptions, so that equal runs write equal files.
#[derive(Serialize)]
pub(crate) struct TuningSummary<'a> {
    pub(crate) command: &'static str,
    pub(crate) hyperinf_version: &'static str,
    pub(crate) task: &'static str,
    pub(crate) model: String,
    /// XXH3 of each of the model's files, 128 bits.
    pub(crate) xxh3_128: &'a BTreeMap<String, String>,
    pub(crate) train: Value,
    pub(crate) validation: Option<Value>,
    pub(crate) lora: Value,
    pub(crate) training: Value,
    /// Of a diffusion model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) loss: Option<Value>,
    /// Trained parameters.
    pub(crate) parameters: usize,
    pub(crate) steps: usize,
    pub(crate) quality: &'a TuningQuality,
}

impl<'a> TuningSummary<'a> {
    pub(crate) fn rows<C>(data: &Dataset<C>) -> Value {
        json!({
            "file": data.path,
            "bytes": data.bytes,
            "xxh3_128": data.xxh3_128,
            "columns": data.columns,
            "rows": data.total,
            "used": data.rows.len(),
        })
    }

    pub(crate) fn model(files: &'a ModelFiles) -> (String, &'a BTreeMap<String, String>) {
        (files.name.clone(), &files.model_hashes)
    }

    pub(crate) fn lora(config: &LoraConfig, targets: &[&str]) -> Value {
        let LoraConfig { rank, alpha, scaling, dropout } = config;
        let rslora = *scaling == LoraScaling::RankStabilized;
        json!({ "rank": rank, "alpha": alpha, "rslora": rslora, "dropout": dropout, "targets": targets })
    }

    pub(crate) fn training(schedule: &TrainConfig, micro_batch: Option<usize>) -> Value {
        let TrainConfig { learning_rate, warmup, optimizer, weight_decay, epochs, batch_size, by_length, seed } =
            schedule;
        let (optimizer, momentum) = match optimizer {
            OptimizerChoice::AdamW => ("adamw", None),
            OptimizerChoice::Sgd { momentum } => ("sgd", Some(momentum)),
        };
        json!({
            "optimizer": optimizer,
            "momentum": momentum,
            "learning_rate": learning_rate,
            "warmup": warmup,
            "weight_decay": weight_decay,
            "epochs": epochs,
            "batch_size": batch_size,
            "micro_batch": micro_batch,
            "by_length": by_length,
            "seed": seed,
        })
    }
}

/// The numbers of an adapter's parameters and tensors.
pub(crate) fn size(adapter: &Adapter) -> (usize, usize) {
    (adapter.tensors.values().map(|tensor| tensor.num_elements()).sum(), adapter.tensors.len())
}

impl TuningQuality {
    /// Warns of a model that has not learned.
    pub(crate) fn warn(&self, run: &Finetune, observe: &mut dyn FnMut(Event)) {
        if let Some(before) = &self.train_before
            && self.train.loss() >= before.loss()
        {
            let (path, before, after) = (run.train.clone(), before.clone(), self.train.clone());
            observe(Event::Notice(Notice::NoGain { path, before, after }));
        }
        warn_of(&self.train, &run.train, Purpose::Training, observe);
        let learned = matches!(&self.train, Quality::Classes(train) if train.verdict == Some(Verdict::Learned));
        if let (true, Some(quality), Some(path)) = (learned, &self.validation, &run.validation) {
            warn_of(quality, path, Purpose::Validation, observe);
        }
    }
}
