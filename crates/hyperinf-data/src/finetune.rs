use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_models::{
    Adapter, Checkpoints, Evaluation, FinetuneConfig, LoraConfig, LoraScaling, PairLoss, Recording, TOKENIZER_FILES,
    TrainConfig,
};

use crate::crew::Crew;
use crate::dataset::ReadOptions;
use crate::diffusion_options::DiffusionOptions;
use crate::event::Event;
use crate::labels::Labels;
use crate::model_files::ModelFiles;
use crate::plan::RunPlan;
use crate::recipe::Recipe;
use crate::samples::LengthOptions;
use crate::stop::Stop;
use crate::training_log;
use crate::tuning::TuningQuality;
use crate::{Choice, RunError};

/// The file that makes a folder an adapter.
pub(crate) const ADAPTER: &str = "adapter_config.json";
/// The file of settings and figures.
pub(crate) const SUMMARY: &str = "summary.json";
/// All files that are written, the summary last.
pub(crate) const OUTPUTS: [&str; 10] = [
    ADAPTER,
    Recording::FILE,
    Adapter::LORA_FILE,
    "adapter_model.safetensors",
    "hyperinf.json",
    training_log::NAME,
    TOKENIZER_FILES[0],
    TOKENIZER_FILES[1],
    TOKENIZER_FILES[2],
    SUMMARY,
];
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
/// | `record` | `false` | keep a [`Recording`] next to the adapter, of states `checkpoint_every` steps apart, else `⌈√steps⌉` |
/// | `resume` | `false` | resume from the checkpoints in the folder |
/// | `more_files` | none | further files of the folder, names with contents, that appear together with the adapter |
/// | `stop` | never | a request to stop between two steps, with a checkpoint |
/// | `crew` | `None` | the ranks that share the pieces of a batch; needs `micro_batch` |
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
    /// Whether the training is recorded, so that it can be differentiated.
    pub record: bool,
    /// Whether checkpoints in the folder are resumed from.
    pub resume: bool,
    /// Further files of the folder.
    pub more_files: Vec<(String, Vec<u8>)>,
    /// A request to stop between two steps.
    pub stop: Stop,
    /// The ranks that share the pieces of a batch, `micro_batch` rows each.
    pub crew: Option<Crew>,
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
    /// The states of the recording, if there is one, and its bytes.
    pub recording: Option<(usize, u64)>,
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
            record: false,
            resume: false,
            more_files: Vec::new(),
            stop: Stop::default(),
            crew: None,
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
        if self.micro_batch.is_none() && self.crew.as_ref().is_some_and(|crew| crew.size() > 1) {
            let reason = "what ranks share are pieces of a batch, of as many rows as the micro-batch has";
            return Err(RunError::Conflict { first: Choice::Ranks, second: Choice::WholeBatches, reason });
        }
        let prompts = self.diffusion.as_ref().is_some_and(|diffusion| diffusion.prompt_dropout > 0.0);
        if (self.lora.dropout > 0.0 || prompts) && self.crew.as_ref().is_some_and(Crew::is_one_process) {
            let reason = "threads of one process draw from one generator; processes of MPI have their own";
            return Err(RunError::Conflict { first: Choice::Ranks, second: Choice::Dropout, reason });
        }
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
        let files = self.files(Some(&self.out))?;
        files.kind().finetune(self, &files, device, observe)
    }

    /// What the other ranks of a crew do while rank 0 runs [`Finetune::run`]: gradients of pieces of batches, until there
    /// are no more.
    ///
    /// # Errors
    ///
    /// See [`RunError`]; [`RunError::Team`] if rank 0 has ended.
    pub fn assist(&self, device: &Device) -> Result<(), RunError> {
        self.validate()?;
        let files = self.files(Some(&self.out))?;
        files.kind().assist_finetune(self, &files, device)
    }

    /// What the run will take, from a measurement of a few seconds: steps on copies of the model. The model is loaded and
    /// all rows are read; nothing is left behind.
    ///
    /// # Errors
    ///
    /// As [`Finetune::run`], but for memory and disk, which the plan shows.
    pub fn plan(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<RunPlan, RunError> {
        self.validate()?;
        let files = self.files(None)?;
        files.kind().plan_tuning(self, &files, device, observe)
    }

    fn files(&self, out: Option<&Path>) -> Result<ModelFiles, RunError> {
        let mut files = ModelFiles::find(&self.model, self.tokenizer.as_deref(), None)?;
        files.read_images(&self.read, out)?;
        files.set_diffusion(self.diffusion.as_ref())?;
        files.set_pairs(self.pairs)?;
        Ok(files)
    }

    /// The configuration of a training on so many rows.
    pub(crate) fn config(
        &self,
        usual: &TrainConfig,
        rows: usize,
        settings: BTreeMap<String, String>,
    ) -> FinetuneConfig {
        let schedule = self.recipe.schedule(usual);
        let mut checkpoints = Checkpoints::new(self.out.join(CHECKPOINTS));
        // A run that is stopped writes a checkpoint whether or not others were asked for.
        let unasked = if self.resume { checkpoints.every } else { usize::MAX };
        checkpoints.every =
            if self.record { self.spacing(&schedule, rows) } else { self.checkpoint_every.unwrap_or(unasked) };
        checkpoints.record = self.record;
        checkpoints.resume = self.resume;
        checkpoints.settings = settings;
        FinetuneConfig {
            schedule,
            micro_batch: self.micro_batch,
            patience: self.patience,
            checkpoints: Some(checkpoints),
            ..FinetuneConfig::default()
        }
    }

    /// The steps between two states of a recording.
    pub(crate) fn spacing(&self, schedule: &TrainConfig, rows: usize) -> usize {
        self.checkpoint_every.unwrap_or_else(|| Recording::usual_spacing(schedule.steps(rows)))
    }

    /// What determines a run and its adapter besides the samples, the trained weights and the schedule.
    pub(crate) fn settings(
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
