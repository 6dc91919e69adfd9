//! The task of an evaluation, its trained models, and their scores.

use std::fs::canonicalize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use burn::tensor::{DType, Device};
use hyperinf::eval::digits::{DigitsTask, Images, Labelled, Length, Optimizer, PerceptronModule, Recipe, digits};
use hyperinf::eval::{Bank, Retrain};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{Attribution, BlockReport, CurvatureFrom, Options, Scores, TaskSource, attribute};
use hyperinf::store::StoreError;

use super::candidate::Candidate;
use super::report::OUTPUTS;
use crate::args::{BankArgs, OptimizerArg, ResultArgs, TaskArgs};
use crate::device::open_device;
use crate::error::CliError;
use crate::progress::Progress;

/// Images of one backward pass.
const BATCH: usize = 100;

/// The largest number of anything that can be asked for: whatever is above was typed by mistake.
const MOST: usize = 1_000_000;

/// Fails if a number that was typed is too small, or absurd.
pub(crate) fn at_least(flag: &'static str, value: usize, least: usize) -> Result<(), CliError> {
    let expected = match least {
        _ if value > MOST => "at most 1000000",
        1 => "at least 1",
        _ => "at least 2",
    };
    if value < least || value > MOST { Err(CliError::Value { flag, expected, value: value as f64 }) } else { Ok(()) }
}

/// Each value once, in the order typed.
pub(crate) fn once<T: Clone + PartialEq>(values: &[T]) -> Vec<T> {
    let first = |(place, value): &(usize, &T)| !values[..*place].contains(value);
    values.iter().enumerate().filter(first).map(|(_, value)| value.clone()).collect()
}

/// The recipe that was typed.
pub(crate) fn recipe(args: &TaskArgs) -> Result<Recipe, CliError> {
    if let (OptimizerArg::Adamw, Some(_)) = (args.optimizer, args.momentum) {
        let reason = "its rates are .9 and .999";
        return Err(CliError::Combination { first: "--momentum".into(), second: "--optimizer adamw", reason });
    }
    let (optimizer, rate) = match args.optimizer {
        OptimizerArg::Sgd => (Optimizer::Sgd { momentum: args.momentum.unwrap_or(0.9) }, 0.05),
        OptimizerArg::Adamw => (Optimizer::AdamW, 0.003),
    };
    let length = match args.steps {
        Some(steps) => Length::Steps(steps),
        None => Length::Epochs(args.epochs.unwrap_or(30)),
    };
    let recipe = Recipe {
        optimizer,
        learning_rate: args.learning_rate.unwrap_or(rate),
        weight_decay: args.weight_decay,
        batch_size: args.batch_size,
        length,
    };
    recipe.validate()?;
    Ok(recipe)
}

/// The task that was typed.
pub(crate) fn task(args: &TaskArgs) -> Result<DigitsTask, CliError> {
    at_least("--train", args.train, 1)?;
    at_least("--queries", args.queries, 1)?;
    let recipe = recipe(args)?;
    let (train, queries) = digits()?.split(args.train, args.queries, args.data_seed)?;
    Ok(DigitsTask { train, queries, hidden: args.hidden.0.clone(), recipe })
}

/// The bank that was typed, or the one in the folder of results, which is there; it is none of the results.
pub(crate) fn bank(
    args: &BankArgs,
    truth: &str,
    result: &ResultArgs,
    task: &dyn Retrain,
) -> Result<(PathBuf, Bank), CliError> {
    at_least("--seeds", args.seeds as usize, 1)?;
    let path = args.bank.clone().unwrap_or_else(|| result.folder(truth).join("bank.jsonl"));
    let folder = result.folder(truth);
    if let Some(path) = OUTPUTS.map(|name| folder.join(name)).into_iter().find(|output| real(output) == real(&path)) {
        return Err(StoreError::OutputIsInput { path }.into());
    }
    let bank = Bank::open(&path, task)?;
    Ok((path, bank))
}

/// The file itself, or where it would be.
fn real(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let placed = || Some(canonicalize(folder).ok()?.join(path.file_name()?));
    canonicalize(path).ok().or_else(placed).unwrap_or_else(|| path.to_owned())
}

/// Tells how far retraining is.
pub(crate) fn telling<T>(work: impl FnOnce(&(dyn Fn(usize, usize) + Sync)) -> T) -> T {
    let progress: Mutex<Option<Progress>> = Mutex::new(None);
    let result = work(&|done, of| {
        let mut progress = progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        progress
            .get_or_insert_with(|| Progress::new("trainings", of as u64))
            .at(done as u64, || "each kept in the bank".into());
    });
    if let Some(progress) = progress.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        progress.finish();
    }
    result
}

/// Trained models on a device, with the data that they are differentiated on.
pub(crate) struct Models {
    pub(crate) device: String,
    pub(crate) precision: &'static str,
    pub(crate) models: Vec<PerceptronModule>,
    pub(crate) train: Vec<Labelled>,
    pub(crate) queries: Vec<Labelled>,
}

/// Scores with what they took.
#[derive(Clone)]
pub(crate) struct Scored {
    /// `[q, n]`, the mean over the models.
    pub(crate) scores: Scores,
    pub(crate) seconds: f64,
    /// The largest over models and blocks.
    pub(crate) residual: Option<f64>,
    pub(crate) converged: bool,
}

impl Scored {
    /// The scores of this one, with what both took.
    pub(crate) fn and(self, other: &Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            residual: self.residual.into_iter().chain(other.residual).reduce(f64::max),
            converged: self.converged && other.converged,
            scores: self.scores,
        }
    }
}

impl Models {
    /// The device and the precision.
    pub(crate) fn place(&self) -> (&str, &'static str) {
        (&self.device, self.precision)
    }

    /// Models trained on all images with these seeds, in f32.
    pub(crate) fn trained(
        task: &DigitsTask,
        seeds: impl IntoIterator<Item = u64>,
        device: Option<&str>,
    ) -> Result<Self, CliError> {
        let (name, opened) = open_device(device)?;
        Self::on(task, seeds, name, &opened, DType::F32)
    }

    /// The same in f64, where the device has it.
    pub(crate) fn precise(
        task: &DigitsTask,
        seeds: impl IntoIterator<Item = u64>,
        device: Option<&str>,
    ) -> Result<Self, CliError> {
        let (name, opened) = open_device(device)?;
        let dtype = if opened.supports_dtype(DType::F64) { DType::F64 } else { DType::F32 };
        Self::on(task, seeds, name, &opened, dtype)
    }

    fn on(
        task: &DigitsTask,
        seeds: impl IntoIterator<Item = u64>,
        device: String,
        opened: &Device,
        dtype: DType,
    ) -> Result<Self, CliError> {
        let all: Vec<usize> = (0..task.train.len()).collect();
        let models = seeds.into_iter().map(|seed| Ok(task.trained(&all, seed)?.module(opened, dtype)));
        let models = models.collect::<Result<Vec<_>, CliError>>()?;
        let batches = |images: &Images| images.batches(BATCH, opened, dtype);
        let precision = if dtype == DType::F64 { "f64" } else { "f32" };
        Ok(Self { device, precision, models, train: batches(&task.train), queries: batches(&task.queries) })
    }

    /// The scores of a method.
    pub(crate) fn score(&self, candidate: &Candidate) -> Result<Scored, CliError> {
        self.score_with(candidate.estimate, &candidate.options)
    }

    pub(crate) fn score_with(&self, estimate: Estimate, options: &Options) -> Result<Scored, CliError> {
        let began = Instant::now();
        let mut parts: Vec<Attribution> = Vec::new();
        for model in &self.models {
            let train = TaskSource::train(model, &self.train);
            let query = TaskSource::query(model, &self.queries);
            let found = match estimate {
                Estimate::Empirical => attribute(&train, &query, CurvatureFrom::Training, options),
                estimate => attribute(
                    &train,
                    &query,
                    CurvatureFrom::Source(&TaskSource::curvature(model, &self.train, estimate)),
                    options,
                ),
            };
            parts.push(found.map_err(CliError::Score)?);
        }
        let mut mean = Scores::default();
        for part in &parts {
            if mean.rows.is_empty() {
                mean.rows = vec![vec![0.0; part.scores.samples()]; part.scores.queries()];
            }
            for (sum, row) in mean.rows.iter_mut().zip(&part.scores.rows) {
                sum.iter_mut().zip(row).for_each(|(sum, score)| *sum += score / parts.len() as f64);
            }
        }
        let residual = parts.iter().filter_map(Attribution::residual).reduce(f64::max);
        let converged = parts.iter().flat_map(|part| &part.blocks).all(BlockReport::converged);
        Ok(Scored { scores: mean, seconds: began.elapsed().as_secs_f64(), residual, converged })
    }
}
