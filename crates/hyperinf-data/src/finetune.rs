use std::collections::BTreeMap;
use std::fs::{canonicalize, create_dir_all, read_dir, remove_dir_all};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_models::{
    Adapter, Checkpoints, Evaluation, FinetuneConfig, LoraConfig, LoraScaling, TrainConfig, adapt, finetune as train,
};
use hyperinf_scoring::Set;
use hyperinf_store::{StoreError, check_output, stage_json};

use crate::dataset::{Dataset, ReadOptions};
use crate::event::{Detail, Event, Progress, Stage};
use crate::kind::{Kind, Prepared};
use crate::labels::Labels;
use crate::model_files::{ModelFiles, Note, load_error};
use crate::run::notify;
use crate::samples::{LengthOptions, Samples};
use crate::training_log::{self, TrainingLog};
use crate::{Existing, RunError};

/// The file that makes a folder an adapter.
const ADAPTER: &str = "adapter_config.json";
/// All files that are written.
const OUTPUTS: [&str; 4] = [ADAPTER, "adapter_model.safetensors", "hyperinf.json", training_log::NAME];
/// The folder of checkpoints in that of the adapter.
const CHECKPOINTS: &str = "checkpoints";

/// Fine-tuning of a model on rows: a LoRA adapter that PEFT loads, with the log of its training.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `model` | empty | a folder, a `.gguf` or llama2.c `.bin` file, or a name on the hub |
/// | `tokenizer` | the model's | a folder with `tokenizer.json`, or a llama2.c vocabulary |
/// | `train` | empty | the training rows: `.jsonl`, `.csv`, `.tsv` or `.parquet` |
/// | `validation` | `None` | rows that are evaluated after every epoch; the adapter with the lowest loss is kept |
/// | `out` | `adapter` | the folder of the adapter; created if missing |
/// | `overwrite` | `false` | replace an adapter or checkpoints in the folder |
/// | `read` | usual names | columns, and whether bad rows are skipped |
/// | `length` | the model's | how long rows may be |
/// | `lora` | see [`LoraConfig`] | rank and scaling of the adapters |
/// | `targets` | the kind's | the adapted layers, by the ends of their names |
/// | `schedule` | see [`TrainConfig`] | steps and learning rates, and the seed of everything random |
/// | `micro_batch` | the batch | rows of a forward and backward pass |
/// | `patience` | `None` | epochs without a lower validation loss after which the training stops |
/// | `checkpoint_every` | `None` | steps between two checkpoints, from which an interrupted run resumes |
/// | `resume` | `false` | resume from the checkpoints in the folder |
///
/// A value outside its range is a [`RunError::Model`].
#[derive(Clone, Debug)]
pub struct Finetune {
    /// The model.
    pub model: String,
    /// The tokenizer, if it is not the model's own.
    pub tokenizer: Option<PathBuf>,
    /// The training rows.
    pub train: PathBuf,
    /// Rows that are evaluated after every epoch.
    pub validation: Option<PathBuf>,
    /// The folder of the adapter.
    pub out: PathBuf,
    /// Whether an adapter or checkpoints in the folder are replaced.
    pub overwrite: bool,
    /// How rows are read.
    pub read: ReadOptions,
    /// How long rows may be.
    pub length: LengthOptions,
    /// The adapters.
    pub lora: LoraConfig,
    /// The adapted layers; the kind's own if empty.
    pub targets: Vec<String>,
    /// Steps and learning rates.
    pub schedule: TrainConfig,
    /// Rows of a forward and backward pass.
    pub micro_batch: Option<usize>,
    /// Epochs without a lower validation loss after which the training stops.
    pub patience: Option<usize>,
    /// Steps between two checkpoints.
    pub checkpoint_every: Option<usize>,
    /// Whether checkpoints in the folder are resumed from.
    pub resume: bool,
}

/// An adapter that was trained and written.
#[derive(Clone, Debug)]
pub struct Finetuned {
    /// Trained parameters.
    pub parameters: usize,
    /// The tensors that hold them.
    pub tensors: usize,
    /// Training rows that were used.
    pub rows: usize,
    /// The labels of a classifier.
    pub labels: Option<Labels>,
    /// Steps taken, those before a resumption included.
    pub steps: usize,
    /// The step at which the run was resumed, if it was.
    pub resumed_at: Option<usize>,
    /// Whether patience ran out before the last step.
    pub stopped_early: bool,
    /// A running mean of the training loss.
    pub loss: Option<f64>,
    /// The best evaluation.
    pub best: Option<Evaluation>,
}

impl Default for Finetune {
    fn default() -> Self {
        Self {
            model: String::new(),
            tokenizer: None,
            train: PathBuf::new(),
            validation: None,
            out: PathBuf::from("adapter"),
            overwrite: false,
            read: ReadOptions::default(),
            length: LengthOptions::default(),
            lora: LoraConfig::default(),
            targets: Vec::new(),
            schedule: TrainConfig::default(),
            micro_batch: None,
            patience: None,
            checkpoint_every: None,
            resume: false,
        }
    }
}

impl Finetune {
    /// Checks the settings, without a look at any file; the run does so itself.
    ///
    /// # Errors
    ///
    /// [`RunError::Model`].
    pub fn validate(&self) -> Result<(), RunError> {
        self.schedule.validate()?;
        Ok(self.lora.validate()?)
    }

    /// Trains an adapter and writes it; `observe` is called with progress and notices.
    ///
    /// # Errors
    ///
    /// See [`RunError`]. No adapter is left behind, only checkpoints from which the same run resumes.
    pub fn run(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<Finetuned, RunError> {
        self.validate()?;
        self.prepare_folder()?;
        let files = ModelFiles::find(&self.model, self.tokenizer.as_deref(), None)?;
        files.kind().finetune(self, &files, device, observe)
    }

    fn config(&self, files: &ModelFiles) -> FinetuneConfig {
        let mut checkpoints = Checkpoints::new(self.out.join(CHECKPOINTS));
        checkpoints.every = self.checkpoint_every.unwrap_or(checkpoints.every);
        checkpoints.resume = self.resume;
        checkpoints.settings = self.settings(files);
        let wanted = self.checkpoint_every.is_some() || self.resume;
        FinetuneConfig {
            schedule: self.schedule,
            micro_batch: self.micro_batch,
            patience: self.patience,
            checkpoints: wanted.then_some(checkpoints),
            ..FinetuneConfig::default()
        }
    }

    /// What determines a run besides the rows, the trained weights and the schedule.
    fn settings(&self, files: &ModelFiles) -> BTreeMap<String, String> {
        let LoraConfig { rank, alpha, scaling, dropout } = &self.lora;
        let scaling: &LoraScaling = scaling;
        let settings = [
            ("lora rank", rank.to_string()),
            ("lora alpha", alpha.to_string()),
            ("lora scaling", format!("{scaling:?}")),
            ("lora dropout", dropout.to_string()),
            ("model", files.fingerprint()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Creates the folder, and makes sure that no input and nothing in it is lost.
    fn prepare_folder(&self) -> Result<(), RunError> {
        let folder = &self.out;
        create_dir_all(folder).map_err(|e| StoreError::output(folder, e))?;
        let optional = [self.validation.as_deref(), self.tokenizer.as_deref()];
        let inputs: Vec<&Path> =
            [self.train.as_path(), Path::new(&self.model)].into_iter().chain(optional.into_iter().flatten()).collect();
        OUTPUTS.iter().try_for_each(|name| check_output(&folder.join(name), &inputs))?;
        let checkpoints = folder.join(CHECKPOINTS);
        // The folder is removed at the end with everything in it.
        if let Ok(real) = canonicalize(&checkpoints)
            && inputs.iter().any(|input| canonicalize(input).is_ok_and(|input| input.starts_with(&real)))
        {
            return Err(StoreError::OutputIsInput { path: checkpoints }.into());
        }
        let exists = |what| Err(RunError::Exists { path: folder.clone(), what });
        if self.overwrite {
            return Ok(());
        }
        if folder.join(ADAPTER).exists() {
            return exists(Existing::Adapter);
        }
        if !self.resume && read_dir(checkpoints).is_ok_and(|mut files| files.next().is_some()) {
            return exists(Existing::Checkpoints);
        }
        Ok(())
    }

    fn remove_checkpoints(&self) -> Result<(), RunError> {
        let path = self.out.join(CHECKPOINTS);
        match remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::output(&path, error).into()),
            _ => Ok(()),
        }
    }
}

/// [`Finetune::run`] of one kind of model.
pub(crate) fn finetune<K: Kind>(
    run: &Finetune,
    files: &ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Finetuned, RunError> {
    let read = |set, path: &PathBuf| {
        let failed = |source| RunError::Dataset { set, path: path.clone(), source };
        Dataset::<K::Content>::read(set, path, &run.read).map_err(failed)
    };
    let rows = read(Set::Train, &run.train)?;
    let validation = run.validation.as_ref().map(|path| read(Set::Query, path)).transpose()?;
    let seed = run.schedule.seed;
    let prepared = K::load_base(files, &rows, seed, device, &mut |notice| observe(Event::Notice(notice)))?;
    let limit = run.length.limit::<K>(&prepared.model, None)?;
    let samples = |data| Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows);
    let rows = samples(rows)?;
    let validation = validation.map(samples).transpose()?;
    for set in std::iter::once(&rows).chain(&validation) {
        notify(&prepared.processor, set, observe);
    }
    let Prepared { model, processor } = prepared;
    let given: Vec<&str> = run.targets.iter().map(String::as_str).collect();
    let targets = if given.is_empty() { K::ADAPTED } else { &given };
    let model = adapt(model, targets, &run.lora, seed)?;

    let config = run.config(files);
    let evaluated = validation.as_ref().map(|set| set.samples.as_slice());
    config.validate(evaluated.map(<[_]>::len))?;
    let mut log = TrainingLog::new(&run.out, run.resume)?;
    if run.overwrite {
        run.remove_checkpoints()?;
    }
    let total = config.schedule.steps(rows.samples.len());
    let mut unwritten = None;
    let tuned = train(model, &rows.samples, evaluated, &config, |step| {
        if let Err(error) = log.step(step) {
            unwritten.get_or_insert(error);
        }
        let (loss, speed) = (log.mean().unwrap_or(step.loss), log.speed(step));
        let detail = Detail::Training { loss, validation: step.validation, speed };
        observe(Event::Progress(Progress { stage: Stage::Finetuning, done: step.step + 1, total, detail }));
    })?;
    unwritten.map_or(Ok(()), Err)?;

    let failed = load_error("adapter", run.out.display());
    let adapter = Adapter::from_model(&tuned.model, &run.lora, Some(&files.name)).map_err(&failed)?;
    let hyperinf_version = env!("CARGO_PKG_VERSION").to_owned();
    let labels = K::labels(&processor).cloned();
    let note = Note { hyperinf_version, labels: labels.clone(), max_length: limit.tokens() };
    let path = Note::path(&run.out);
    let note = stage_json(&path, &note)?;
    let loss = log.mean();
    // The adapter comes last: it makes the folder an adapter, and then its labels must be there.
    note.place()?;
    log.place()?;
    adapter.write(&run.out).map_err(&failed)?;
    run.remove_checkpoints()?;
    Ok(Finetuned {
        parameters: adapter.tensors.values().map(|tensor| tensor.num_elements()).sum(),
        tensors: adapter.tensors.len(),
        rows: rows.samples.len(),
        labels,
        steps: tuned.steps,
        resumed_at: tuned.resumed_at,
        stopped_early: tuned.stopped_early,
        loss,
        best: tuned.best,
    })
}
