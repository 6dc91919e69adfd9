use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf_models::{
    Adapter, Checkpoints, Evaluation, FinetuneConfig, LoraConfig, LoraScaling, ModelError, PairLoss, TOKENIZER_FILES,
    TextTokenizer, TrainConfig, adapt, finetune_until as train, training_digest,
};
use hyperinf_scoring::Set;
use hyperinf_store::{Staged, WriteError, publish, stage_json};

use crate::RunError;
use crate::dataset::{Dataset, ReadOptions};
use crate::diffusion_options::DiffusionOptions;
use crate::event::{Detail, Event, Notice, Progress};
use crate::kind::{Kind, Prepared};
use crate::labels::Labels;
use crate::model_files::{ModelFiles, Note, load_error};
use crate::prediction::measure;
use crate::recipe::Recipe;
use crate::resumption::Earlier;
use crate::run::unchanged;
use crate::samples::{LengthOptions, Samples, notify};
use crate::stage::Stage;
use crate::stop::Stop;
use crate::training_log::{self, TrainingLog};
use crate::tuning::{TuningQuality, TuningSummary, size};

/// The file that makes a folder an adapter.
pub(crate) const ADAPTER: &str = "adapter_config.json";
/// The file of settings and figures.
const SUMMARY: &str = "summary.json";
/// All files that are written, the summary last.
pub(crate) const OUTPUTS: [&str; 9] = [
    ADAPTER,
    Adapter::LORA_FILE,
    "adapter_model.safetensors",
    "hyperinf.json",
    training_log::NAME,
    TOKENIZER_FILES[0],
    TOKENIZER_FILES[1],
    TOKENIZER_FILES[2],
    SUMMARY,
];
/// Files of an earlier tokenizer, which the new one may lack.
const EARLIER: [&str; 4] =
    ["chat_template.jinja", "chat_template.json", "special_tokens_map.json", "added_tokens.json"];
/// The most training rows on which the trained model is measured.
const MEASURED: usize = 1000;
/// The hidden folder of images' features in that of a run.
pub(crate) const FEATURES: &str = ".features";
/// The folder of checkpoints in that of the adapter.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

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
/// | `diffusion` | see [`DiffusionOptions`] | the loss of a diffusion model; another kind of model refuses one | |
/// | `pairs` | `None` | rows are pairs of answers, with this loss |
/// | `recipe` | the kind's | steps and learning rates, and the seed of everything random, see [`Recipe`] |
/// | `micro_batch` | the batch | rows of a forward and backward pass |
/// | `patience` | `None` | epochs without a lower validation loss after which the training stops |
/// | `checkpoint_every` | `None` | steps between two checkpoints, from which an interrupted run resumes |
/// | `resume` | `false` | resume from the checkpoints in the folder |
/// | `stop` | never | a request to stop between two steps, with a checkpoint |
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
    /// The loss of a diffusion model; `None` for the usual one.
    pub diffusion: Option<DiffusionOptions>,
    /// The loss of rows that are pairs of answers.
    pub pairs: Option<PairLoss>,
    /// Steps and learning rates.
    pub recipe: Recipe,
    /// Rows of a forward and backward pass.
    pub micro_batch: Option<usize>,
    /// Epochs without a lower validation loss after which the training stops.
    pub patience: Option<usize>,
    /// Steps between two checkpoints.
    pub checkpoint_every: Option<usize>,
    /// Whether checkpoints in the folder are resumed from.
    pub resume: bool,
    /// A request to stop between two steps.
    pub stop: Stop,
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
    /// How well the model predicts.
    pub quality: TuningQuality,
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
            diffusion: None,
            pairs: None,
            recipe: Recipe::default(),
            micro_batch: None,
            patience: None,
            checkpoint_every: None,
            resume: false,
            stop: Stop::default(),
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
        self.recipe.schedule(&TrainConfig::default()).validate()?;
        Ok(self.lora.validate()?)
    }

    /// Trains an adapter and writes it; `observe` is called with progress and notices.
    ///
    /// # Errors
    ///
    /// See [`RunError`]. No adapter is left behind, only checkpoints from which the same run resumes.
    pub fn run(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<Finetuned, RunError> {
        self.validate()?;
        let _folder = self.prepare_folder()?;
        let mut files = ModelFiles::find(&self.model, self.tokenizer.as_deref(), None)?;
        files.read_images(&self.read, Some(&self.out))?;
        files.set_diffusion(self.diffusion.as_ref())?;
        files.set_pairs(self.pairs)?;
        files.kind().finetune(self, &files, device, observe)
    }

    fn config(&self, usual: &TrainConfig, settings: BTreeMap<String, String>) -> FinetuneConfig {
        let mut checkpoints = Checkpoints::new(self.out.join(CHECKPOINTS));
        // A run that is stopped writes a checkpoint whether or not others were asked for.
        checkpoints.every = self.checkpoint_every.unwrap_or(if self.resume { checkpoints.every } else { usize::MAX });
        checkpoints.resume = self.resume;
        checkpoints.settings = settings;
        FinetuneConfig {
            schedule: self.recipe.schedule(usual),
            micro_batch: self.micro_batch,
            patience: self.patience,
            checkpoints: Some(checkpoints),
            ..FinetuneConfig::default()
        }
    }

    /// What determines a run and its adapter besides the samples, the trained weights and the schedule.
    fn settings(
        &self,
        files: &ModelFiles,
        targets: &[&str],
        labels: Option<&Labels>,
        limit: usize,
        device: &Device,
    ) -> BTreeMap<String, String> {
        let LoraConfig { rank, alpha, scaling, dropout } = &self.lora;
        let scaling: &LoraScaling = scaling;
        let settings = [
            ("program", env!("CARGO_PKG_VERSION").to_owned()),
            ("device", format!("{device:?}")),
            ("labels", labels.map_or("none".into(), |labels| labels.names.join(", "))),
            ("maximum length", limit.to_string()),
            ("lora targets", targets.join(", ")),
            ("lora rank", rank.to_string()),
            ("lora alpha", alpha.to_string()),
            ("lora scaling", format!("{scaling:?}")),
            ("lora dropout", dropout.to_string()),
            ("model", files.fingerprint()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).into()
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
        unchanged(path, || Dataset::<K::Content>::read(set, path, &run.read).map_err(RunError::of_rows(set, path)))
    };
    let rows = read(Set::Train, &run.train)?;
    let validation = run.validation.as_ref().map(|path| read(Set::Query, path)).transpose()?;
    let seed = run.recipe.seed;
    let mut prepared = K::load_base(files, &rows, seed, device, &mut |notice| observe(Event::Notice(notice)))?;
    files.check_unchanged()?;
    prepared.notify_of_tokenizer(observe);
    let given: Vec<&str> = run.targets.iter().map(String::as_str).collect();
    let targets = if given.is_empty() { K::ADAPTED } else { &given };
    prepared.model = adapt(prepared.model, targets, &run.lora, seed)?;
    // Before rows become samples: what is stored of their images depends on the layers that are trained.
    K::changed(&mut prepared, files)?;
    let limit = run.length.limit::<K>(&prepared.model, None)?;
    let samples = |data| Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows);
    let rows = samples(rows)?;
    let validation = validation.map(samples).transpose()?;
    for set in std::iter::once(&rows).chain(&validation) {
        notify(&prepared.processor, set, observe);
    }
    let Prepared { model, processor } = prepared;
    let labels = K::labels(&processor).cloned();

    let mut settings = run.settings(files, targets, labels.as_ref(), limit.tokens(), device);
    let loss_settings = K::settings(&model);
    settings.extend(loss_settings.iter().map(|found| ("loss".to_owned(), found.to_string())));
    let config = run.config(&K::training(), settings);
    let evaluated = validation.as_ref().map(|set| set.samples.as_slice());
    config.validate(evaluated.map(<[_]>::len))?;
    let digest = training_digest(&model, &rows.samples, evaluated, &config)?;
    let total = config.schedule.steps(rows.samples.len());
    let batch = run.micro_batch.unwrap_or(config.schedule.batch_size);
    let earlier = run.resumption(&config, || Ok(digest.clone()), observe)?;
    if let Earlier::Adapter(adapter) = earlier {
        run.remove_checkpoints()?;
        drop(TrainingLog::new(&run.out));
        let (parameters, tensors) = size(&adapter);
        let model = adapter.apply(model).map_err(load_error("adapter", run.out.display()))?;
        let mut quality = |set, most| measure(&model, set, labels.as_ref(), most, batch, observe);
        let train = quality(&rows, MEASURED)?;
        let validation = validation.as_ref().map(|set| quality(set, usize::MAX)).transpose()?;
        return Ok(Finetuned {
            parameters,
            tensors,
            rows: rows.samples.len(),
            labels,
            steps: total,
            resumed_at: Some(total),
            stopped_early: false,
            loss: None,
            best: None,
            quality: TuningQuality { train_before: None, train, validation },
        });
    }
    let mut log = match earlier {
        Earlier::Steps(steps) => TrainingLog::resumed(&run.out, steps)?,
        _ => TrainingLog::new(&run.out),
    };
    if log.lost() > 0 {
        observe(Event::Notice(Notice::LostLog { steps: log.lost(), path: log.path() }));
    }
    if run.overwrite {
        run.remove_checkpoints()?;
    }
    let before = match &labels {
        // A language model can be good before; a new head knows nothing.
        None => Some(measure(&model, &rows, None, MEASURED, batch, observe)?),
        Some(_) => None,
    };
    let mut unwritten = None;
    // To the end: what is trained is measured and written even if the run is to stop.
    let _listening = run.stop.listen();
    let tuned = train(model, &rows.samples, evaluated, &config, |step| {
        if let Err(error) = log.step(step) {
            unwritten.get_or_insert(error);
        }
        let (loss, speed) = (log.mean().unwrap_or(step.loss), log.speed(step));
        let detail = Detail::Training { loss, validation: step.validation, speed, unit: K::UNIT };
        observe(Event::Progress(Progress { stage: Stage::Finetuning, done: step.step + 1, total, detail }));
        if run.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let tuned = tuned.map_err(|error| match error {
        ModelError::Stopped { step: done, steps: total, checkpoint: kept } => {
            RunError::Stopped { stage: Stage::Finetuning, done, total, kept }
        }
        error => error.into(),
    })?;
    unwritten.map_or(Ok(()), Err)?;
    let mut quality = |set, most| measure(&tuned.model, set, labels.as_ref(), most, batch, observe);
    let quality = TuningQuality {
        train_before: before,
        train: quality(&rows, MEASURED)?,
        validation: validation.as_ref().map(|set| quality(set, usize::MAX)).transpose()?,
    };
    quality.warn(run, observe);

    let failed = load_error("adapter", run.out.display());
    let adapter = Adapter::from_model(&tuned.model, &run.lora, Some(&files.name)).map_err(&failed)?;
    let note = Note::new(labels.clone(), limit.tokens(), files.one_tile, digest);
    let (parameters, tensors) = size(&adapter);
    let (model, xxh3_128) = TuningSummary::model(files);
    let summary = TuningSummary {
        command: "finetune",
        hyperinf_version: env!("CARGO_PKG_VERSION"),
        task: K::NAME,
        model,
        xxh3_128,
        train: TuningSummary::rows(&rows.data),
        validation: validation.as_ref().map(|set| TuningSummary::rows(&set.data)),
        lora: TuningSummary::lora(&run.lora, targets),
        training: TuningSummary::training(&config.schedule, config.micro_batch),
        loss: loss_settings,
        parameters,
        steps: tuned.steps,
        quality: &quality,
    };
    // The rows were tokenized with it, and later ones must be too.
    let tokenizer = K::tokenizer(&processor).map(TextTokenizer::to_files).transpose();
    let tokenizer = tokenizer.map_err(|source| failed(source.into()))?.unwrap_or_default();
    let tokenizer: Vec<(PathBuf, Vec<u8>)> =
        tokenizer.into_iter().map(|(name, bytes)| (run.out.join(name), bytes)).collect();
    let (note_path, summary_path, log_path) = (Note::path(&run.out), run.out.join(SUMMARY), log.path());
    let more = K::more_files(&tuned.model, &adapter).map_err(&failed)?;
    let mut files: Vec<_> = more.into_iter().map(|(name, bytes)| (run.out.join(name), bytes)).collect();
    files.extend(adapter.files(&run.out).map_err(&failed)?);
    let mut staged = vec![stage_json(&note_path, &note)?, stage_json(&summary_path, &summary)?, log.stage(&log_path)?];
    // The adapter comes last: it makes the folder an adapter.
    for (path, bytes) in &files {
        staged.push(Staged::new(path, |file| file.write_all(bytes).map_err(WriteError::Io))?);
    }
    for (path, bytes) in &tokenizer {
        staged.insert(0, Staged::new(path, |file| file.write_all(bytes).map_err(WriteError::Io))?);
    }
    let stale =
        EARLIER.iter().map(|name| run.out.join(name)).filter(|path| tokenizer.iter().all(|(new, _)| new != path));
    let loss = log.mean();
    publish(staged, &stale.collect::<Vec<_>>())?;
    // The log's hidden file goes last: as long as there are checkpoints, the lines before them are needed.
    run.remove_checkpoints()?;
    drop(log);
    Ok(Finetuned {
        parameters,
        tensors,
        rows: rows.samples.len(),
        labels,
        steps: tuned.steps,
        resumed_at: tuned.resumed_at,
        stopped_early: tuned.stopped_early,
        loss,
        best: tuned.best,
        quality,
    })
}
