//! `hyperinf demo`: wrong labels in real e-mails, looked for with every method.

mod compare;
mod data;
mod model;
mod noise;
mod report;

use std::fs::create_dir_all;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;
use hyperinf::gradients::{Gradients, Tape, Target, Task, gradients};
use hyperinf::models::{EncoderClassifier, Sample, SampleModel};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::DemoArgs;
use crate::device::open_device;
use crate::error::CliError;
use crate::to_stdout;
use compare::Outcome;
use data::{DemoData, Mail};
use hyperinf::store::{StoreError, check_writable};

pub use data::DataError;

/// Mails of one backward pass.
const BATCH: usize = 50;

/// What was done, and what each method made of it.
struct Demo<'a> {
    seed: u64,
    noise: f64,
    device: String,
    mails: &'a [Mail],
    validation: usize,
    /// Which of the mails have the wrong label.
    flipped: Vec<bool>,
    outcomes: Vec<Outcome>,
    /// Seconds of fine-tuning.
    training_seconds: f64,
    /// Seconds of all per-sample gradients, which all methods but the training loss share.
    gradient_seconds: f64,
}

/// Fine-tunes on noisy labels, compares the methods, and writes what they found.
///
/// # Errors
///
/// If the noise is out of range, the device cannot be had, the folder cannot be written, or the numbers fail.
pub fn run(args: &DemoArgs) -> Result<(), CliError> {
    noise::check(args.noise)?;
    let (device_name, device) = open_device(args.device.as_deref())?;
    let files = Files::new(args)?;
    let data = data::load()?;
    let flipped = noise::flipped(data.train.len(), args.noise, args.seed);
    let (model, train, validation, training_seconds) = tuned(&data, &flipped, args.seed, &device)?;

    let began = Instant::now();
    let bar = progress("gradients", (train.len() + validation.len()).div_ceil(BATCH) as u64);
    let train_gradients = all_gradients(&model, &train, Target::Loss, &bar)?;
    let query_gradients = all_gradients(&model, &validation, Target::Measure, &bar)?;
    let gradient_seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();

    let bar = progress("methods", compare::NAMES.len() as u64);
    let losses = || losses(&model, &train);
    let outcomes = compare::compare(&train_gradients, &query_gradients, losses, &flipped, || bar.inc(1))?;
    bar.finish_and_clear();

    let demo = Demo {
        seed: args.seed,
        noise: args.noise,
        device: device_name,
        mails: &data.train,
        validation: validation.len(),
        flipped,
        outcomes,
        training_seconds,
        gradient_seconds,
    };
    report::write(&demo, &files)?;
    to_stdout(|out| report::text(&demo, &files, out))
}

/// Where the results go.
struct Files {
    folder: PathBuf,
    parquet: PathBuf,
    csv: PathBuf,
    summary: PathBuf,
}

impl Files {
    /// The files in the folder, which is made, and found out to be writable before anything is computed.
    fn new(args: &DemoArgs) -> Result<Self, CliError> {
        let folder = args.out.clone();
        create_dir_all(&folder).map_err(|e| StoreError::output(&folder, e))?;
        let [parquet, csv, summary] = ["scores.parquet", "scores.csv", "summary.json"].map(|name| folder.join(name));
        for path in [&parquet, &csv, &summary] {
            check_writable(path)?;
        }
        Ok(Self { folder, parquet, csv, summary })
    }
}

/// The model after fine-tuning, the training samples as it saw them, the validation samples, and the time it took.
fn tuned(
    data: &DemoData,
    flipped: &[bool],
    seed: u64,
    device: &Device,
) -> Result<(EncoderClassifier, Vec<Sample>, Vec<Sample>, f64), CliError> {
    let noisy = data.train.iter().zip(flipped).map(|(mail, flipped)| model::sample(data, mail, mail.spam != *flipped));
    let train = noisy.collect::<Result<Vec<_>, _>>()?;
    let clean = data.validation.iter().map(|mail| model::sample(data, mail, mail.spam));
    let validation = clean.collect::<Result<Vec<_>, _>>()?;
    let began = Instant::now();
    let bar = progress("fine-tuning", 0);
    let tuned = model::tune(model::build(data, seed, device)?, &train, seed, |progress| {
        bar.set_length(progress.steps as u64);
        bar.set_position(progress.step as u64 + 1);
    })?;
    bar.finish_and_clear();
    Ok((tuned, train, validation, began.elapsed().as_secs_f64()))
}

fn all_gradients(
    model: &EncoderClassifier,
    samples: &[Sample],
    target: Target,
    bar: &ProgressBar,
) -> Result<Gradients, CliError> {
    let mut parts = Vec::new();
    for chunk in samples.chunks(BATCH) {
        parts.push(gradients(model, &model.collate(&chunk.iter().collect::<Vec<_>>())?, target)?);
        bar.inc(1);
    }
    Ok(Gradients::concat(parts)?)
}

/// The training loss of each sample.
fn losses(model: &EncoderClassifier, samples: &[Sample]) -> Result<Vec<f64>, CliError> {
    let mut losses = Vec::with_capacity(samples.len());
    for chunk in samples.chunks(BATCH) {
        let batch = model.collate(&chunk.iter().collect::<Vec<_>>())?;
        losses.extend(hyperinf::curvature::host(model.loss(model.forward(&batch, &mut Tape::off()), &batch))?);
    }
    Ok(losses)
}

/// A bar on standard error, drawn only if that is a terminal.
fn progress(what: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:12} {bar:40} {pos}/{len}  {eta}");
    ProgressBar::new(length).with_style(style.expect("the template is well formed")).with_prefix(what)
}
