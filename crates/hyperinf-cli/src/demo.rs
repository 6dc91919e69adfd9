//! `hyperinf demo`: every method searches real e-mails for flipped labels; with pictures, a sheet of what taught a model.

mod compare;
mod data;
mod model;
mod report;
mod shapes;

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use hyperinf::eval::flipped_labels;
use hyperinf::gradients::{Gradients, Tape, Target, Task, gradients};
use hyperinf::models::{EncoderClassifier, Sample, SampleModel};
use hyperinf::store::OutputFolder;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::DemoArgs;
use crate::device::open_device;
use crate::error::{CliError, Usage};
use crate::to_stdout;
use compare::MethodResult;
use data::{DemoData, Mail};

/// Mails per backward pass.
const BATCH: usize = 50;

/// The setting of a run and the result of each method.
struct Demo<'a> {
    seed: u64,
    noise: f64,
    device: String,
    mails: &'a [Mail],
    validation: usize,
    /// `true` for mails trained with the wrong label.
    flipped: Vec<bool>,
    results: Vec<MethodResult>,
    /// Seconds of fine-tuning.
    training_seconds: f64,
    /// Seconds of all per-sample gradients, which every method but the training loss uses.
    gradient_seconds: f64,
}

/// Fine-tunes on noisy labels, compares the methods, and writes their results.
///
/// # Errors
///
/// If the noise is outside [0, 0.5), the device is not available, the folder cannot be written, or a computation
/// fails.
pub(crate) fn run(args: &DemoArgs) -> Result<(), CliError> {
    if !(0.0..0.5).contains(&args.noise) {
        return Err(Usage::Noise { value: args.noise }.into());
    }
    let (device_name, device) = open_device(&args.device)?;
    if args.images {
        return shapes::run(args, device_name, &device);
    }
    let files = Files::new(args)?;
    let data = data::load()?;
    let flipped = flipped_labels(data.train.len(), args.noise, args.seed);
    let (model, train, validation, training_seconds) = tuned(&data, &flipped, args.seed, &device)?;

    let began = Instant::now();
    let bar = progress("gradients", (train.len() + validation.len()).div_ceil(BATCH) as u64);
    let train_gradients = all_gradients(&model, &train, Target::Loss, &bar)?;
    let query_gradients = all_gradients(&model, &validation, Target::Measure, &bar)?;
    let gradient_seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();

    let bar = progress("methods", compare::NAMES.len() as u64);
    let losses = || losses(&model, &train);
    let results = compare::compare(&train_gradients, &query_gradients, losses, &flipped, || bar.inc(1))?;
    bar.finish_and_clear();

    let demo = Demo {
        seed: args.seed,
        noise: args.noise,
        device: device_name,
        mails: &data.train,
        validation: validation.len(),
        flipped,
        results,
        training_seconds,
        gradient_seconds,
    };
    report::write(&demo, &files)?;
    to_stdout(|out| report::text(&demo, &files, out))
}

/// The output files.
struct Files {
    folder: PathBuf,
    /// No other run writes it meanwhile.
    _locked: OutputFolder,
    parquet: PathBuf,
    csv: PathBuf,
    summary: PathBuf,
}

impl Files {
    /// Creates the folder and checks that every file can be written, before anything is computed.
    fn new(args: &DemoArgs) -> Result<Self, CliError> {
        let folder = args.out.clone();
        let names = ["scores.parquet", "scores.csv", "summary.json"];
        let locked = OutputFolder::of_command("demo", &folder, &names, &[])?;
        let [parquet, csv, summary] = names.map(|name| folder.join(name));
        Ok(Self { folder, _locked: locked, parquet, csv, summary })
    }
}

/// A file of an earlier run of the demo of the other kind.
fn stale(out: &Path, name: &str) -> Vec<PathBuf> {
    let path = out.join(name);
    if out.join("summary.json").is_file() && path.is_file() { vec![path] } else { Vec::new() }
}

/// The fine-tuned model, its training samples with flipped labels, the validation samples, and the seconds of tuning.
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
        losses.extend(hyperinf::linalg::host(model.loss(model.forward(&batch, &mut Tape::off()), &batch))?);
    }
    Ok(losses)
}

/// A progress bar on standard error, shown only on a terminal.
fn progress(what: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:12} {bar:40} {pos}/{len}  {eta}");
    ProgressBar::new(length).with_style(style.expect("the template is well formed")).with_prefix(what)
}
