//! `hyperinf finetune`: an adapter from rows of text.

mod log;

use std::collections::BTreeMap;
use std::fs::{canonicalize, create_dir_all, read_dir, remove_dir_all};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hyperinf::models::{
    Adaptable, Adapter, CheckpointNames, Checkpoints, FinetuneConfig, Finetuned, LoraConfig, LoraScaling, TrainConfig,
    adapt, finetune,
};
use hyperinf::scoring::Set;

use crate::args::FinetuneArgs;
use crate::data::{Dataset, DatasetError, Labels, TextTask};
use crate::device::open_device;
use crate::error::{self, CliError};
use crate::influence::tell;
use crate::model::{ModelFiles, Note};
use crate::progress::{Progress, duration};
use crate::samples::{Reader, RowModel, limit, read_data};
use crate::score::counted;
use crate::to_stdout;
use hyperinf::store::{StoreError, check_output, stage_json};
use log::Log;

/// The file that makes a folder an adapter.
const ADAPTER: &str = "adapter_config.json";
/// All files that will be written.
const OUTPUTS: [&str; 4] = [ADAPTER, "adapter_model.safetensors", "hyperinf.json", "training_log.jsonl"];
/// The folder of checkpoints in that of the adapter.
const CHECKPOINTS: &str = "checkpoints";

/// Trains an adapter and writes it.
///
/// # Errors
///
/// See [`CliError`]. No adapter is left behind, but for checkpoints from which the same run goes on.
pub fn run(args: &FinetuneArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let mut config = config(args);
    config.schedule.validate()?;
    let lora = lora(args);
    lora.validate()?;
    let (_, device) = open_device(args.device.as_deref())?;
    prepare_folder(args)?;
    let files = ModelFiles::find(&args.model, None)?;
    if let Some(checkpoints) = &mut config.checkpoints {
        checkpoints.settings = settings(&lora, &files);
    }
    let task = files.task()?;
    let train = read_data(Set::Train, &args.train, task, &args.columns)?;
    let validation = args.validation.as_ref();
    let validation = validation.map(|path| read_data(Set::Query, path, task, &args.columns)).transpose()?;
    let run = Run { args, config, lora, files: &files, began };
    match task {
        TextTask::Classification => {
            let found = labels(&train)?;
            let (model, labels) = files.load_classifier(found, args.seed, &device)?;
            run.go(model, Some(labels), train, validation)
        }
        TextTask::LanguageModel => run.go(files.load_decoder(&device)?, None, train, validation),
    }
}

struct Run<'a> {
    args: &'a FinetuneArgs,
    config: FinetuneConfig,
    lora: LoraConfig,
    files: &'a ModelFiles,
    began: Instant,
}

impl Run<'_> {
    fn go<M: RowModel + Adaptable + CheckpointNames>(
        &self,
        model: M,
        labels: Option<Labels>,
        train: Dataset,
        validation: Option<Dataset>,
    ) -> Result<(), CliError> {
        let args = self.args;
        let limit = limit(&model, &args.length, None)?;
        let tokenizer = self.files.tokenizer()?;
        let reader = Reader { tokenizer: &tokenizer, labels: labels.as_ref(), limit, columns: &args.columns };
        let train = reader.samples(train, &model)?;
        let validation = validation.map(|data| reader.samples(data, &model)).transpose()?;
        for set in std::iter::once(&train).chain(&validation) {
            tell(&set.data, &set.cut);
        }
        let usual: &[&str] = match M::TASK {
            TextTask::Classification => &["query", "value"],
            TextTask::LanguageModel => &["q_proj", "v_proj"],
        };
        let given: Vec<&str> = args.lora_target.iter().map(String::as_str).collect();
        let targets = if given.is_empty() { usual } else { &given };
        let model = adapt(model, targets, &self.lora, args.seed)?;

        let samples = validation.as_ref().map(|set| set.samples.as_slice());
        self.config.validate(samples.map(<[_]>::len))?;
        let mut log = Log::new(args)?;
        if args.overwrite {
            remove_checkpoints(&args.out)?;
        }
        let steps = self.config.schedule.steps(train.samples.len());
        let mut progress = Progress::new("fine-tuning", steps as u64);
        let mut unwritten = None;
        let tuned = finetune(model, &train.samples, samples, &self.config, |step| {
            if let Err(error) = log.step(step) {
                unwritten.get_or_insert(error);
            }
            progress.at(step.step as u64 + 1, || log.told(step));
        })?;
        progress.finish();
        unwritten.map_or(Ok(()), Err)?;

        let failed =
            |source| CliError::Load { what: "adapter", path: args.out.display().to_string(), source: Box::new(source) };
        let adapter = Adapter::from_model(&tuned.model, &self.lora, Some(&self.files.name)).map_err(failed)?;
        let hyperinf_version = env!("CARGO_PKG_VERSION").to_owned();
        let note = Note { hyperinf_version, labels: labels.clone(), max_length: limit.tokens() };
        let path = Note::path(&args.out);
        let note = stage_json(&path, &note)?;
        let mean = log.mean();
        // The adapter comes last: with it the folder is one, and then its labels must be there.
        note.place()?;
        log.place()?;
        adapter.write(&args.out).map_err(failed)?;
        remove_checkpoints(&args.out)?;
        self.tell(train.samples.len(), labels.as_ref(), &tuned, &adapter, mean)
    }

    fn tell<M>(
        &self,
        rows: usize,
        labels: Option<&Labels>,
        tuned: &Finetuned<M>,
        adapter: &Adapter,
        loss: Option<f64>,
    ) -> Result<(), CliError> {
        let parameters: usize = adapter.tensors.values().map(|tensor| tensor.num_elements()).sum();
        to_stdout(|out| {
            writeln!(
                out,
                "trained   {} parameters in {} tensors on {}",
                parameters,
                adapter.tensors.len(),
                counted(rows, "row", "rows")
            )?;
            if let Some(labels) = labels {
                let named: Vec<String> =
                    labels.names.iter().enumerate().map(|(class, name)| format!("{class} = {name}")).collect();
                writeln!(out, "labels    {}", named.join(", "))?;
            }
            let early = if tuned.stopped_early { ", stopped early" } else { "" };
            let resumed = tuned.resumed_at.map_or_else(String::new, |step| format!(", taken up at step {step}"));
            let time = duration(self.began.elapsed().as_secs_f64());
            writeln!(out, "steps     {}{resumed}{early}; {time}", tuned.steps)?;
            if let Some(loss) = loss {
                writeln!(out, "loss      {loss:.4}, a mean of the last steps")?;
            }
            if let Some(best) = tuned.best {
                writeln!(out, "validation loss {:.4} after step {}, whose adapter is kept", best.loss, best.steps)?;
            }
            writeln!(out, "adapter   {}", self.args.out.display())
        })
    }
}

fn config(args: &FinetuneArgs) -> FinetuneConfig {
    let schedule = TrainConfig {
        learning_rate: args.learning_rate,
        warmup: args.warmup,
        weight_decay: args.weight_decay,
        epochs: args.epochs,
        batch_size: args.batch_size,
        by_length: !args.any_length,
        seed: args.seed,
    };
    let defaults = Checkpoints::new(args.out.join(CHECKPOINTS));
    let checkpoints =
        Checkpoints { every: args.checkpoint_every.unwrap_or(defaults.every), resume: args.resume, ..defaults };
    let wanted = args.checkpoint_every.is_some() || args.resume;
    FinetuneConfig {
        schedule,
        micro_batch: args.micro_batch,
        patience: args.patience,
        checkpoints: wanted.then_some(checkpoints),
        ..FinetuneConfig::default()
    }
}

fn lora(args: &FinetuneArgs) -> LoraConfig {
    let scaling = if args.rslora { LoraScaling::RankStabilized } else { LoraScaling::Standard };
    LoraConfig { rank: args.lora_rank, alpha: args.lora_alpha, scaling, dropout: args.lora_dropout }
}

/// What a run is determined by beyond the rows, the trained weights and the schedule.
fn settings(lora: &LoraConfig, files: &ModelFiles) -> BTreeMap<String, String> {
    let LoraConfig { rank, alpha, scaling, dropout } = lora;
    let settings = [
        ("lora rank", rank.to_string()),
        ("lora alpha", alpha.to_string()),
        ("lora scaling", format!("{scaling:?}")),
        ("lora dropout", dropout.to_string()),
        ("model", files.fingerprint()),
    ];
    settings.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The labels of the training rows, at least two.
fn labels(train: &Dataset) -> Result<Labels, CliError> {
    let labels = Labels::of(&train.rows);
    match &labels.names[..] {
        [label] => {
            let source = DatasetError::OneLabel { label: label.clone(), rows: train.rows.len() };
            Err(CliError::Dataset { set: train.set, path: train.path.clone(), source })
        }
        _ => Ok(labels),
    }
}

/// Makes the folder, and makes sure that no input and nothing in it is lost.
fn prepare_folder(args: &FinetuneArgs) -> Result<(), CliError> {
    let folder = &args.out;
    create_dir_all(folder).map_err(|e| StoreError::output(folder, e))?;
    let optional = [args.validation.as_deref(), args.model.tokenizer.as_deref()];
    let inputs: Vec<&Path> = [args.train.as_path(), Path::new(&args.model.model)]
        .into_iter()
        .chain(optional.into_iter().flatten())
        .collect();
    OUTPUTS.iter().try_for_each(|name| check_output(&folder.join(name), &inputs))?;
    let checkpoints = folder.join(CHECKPOINTS);
    // They are taken away with all that is among them.
    if let Ok(real) = canonicalize(&checkpoints)
        && inputs.iter().any(|input| canonicalize(input).is_ok_and(|input| input.starts_with(&real)))
    {
        return Err(StoreError::OutputIsInput { path: checkpoints }.into());
    }
    let exists = |what| Err(CliError::OutputExists { path: folder.clone(), what });
    if args.overwrite {
        return Ok(());
    }
    if folder.join(ADAPTER).exists() {
        return exists(error::ADAPTER);
    }
    if !args.resume && read_dir(checkpoints).is_ok_and(|mut files| files.next().is_some()) {
        return exists("checkpoints of an earlier run");
    }
    Ok(())
}

fn remove_checkpoints(folder: &Path) -> Result<(), CliError> {
    let path: PathBuf = folder.join(CHECKPOINTS);
    match remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::output(&path, error).into()),
        _ => Ok(()),
    }
}
