use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_models::PairLoss;
use hyperinf_scoring::Set;
use hyperinf_store::{Column, Staged, Table, stage_table};
use serde_json::{Map, Value};

use crate::RunError;
use crate::dataset::{Dataset, ReadOptions};
use crate::diffusion_options::DiffusionOptions;
use crate::event::{Event, Notice, Purpose, warn_of};
use crate::influence::Rows;
use crate::kind::{Kind, Prepared};
use crate::labels::Labels;
use crate::model_files::ModelFiles;
use crate::prediction::{Guess, Predicted, predict};
use crate::quality::Quality;
use crate::room::Growth;
use crate::run::unchanged;
use crate::samples::{LengthOptions, Samples, notify};

/// The evaluation of a model on rows: its loss, its accuracy or perplexity, and what it predicts for each row.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `model` | empty | a folder, a `.gguf` or llama2.c `.bin` file, or a name on the hub | |
/// | `adapter` | `None` | the folder of an adapter | |
/// | `tokenizer` | the model's | a folder with `tokenizer.json`, or a llama2.c vocabulary | |
/// | `rows` | empty | the rows: `.jsonl`, `.csv`, `.tsv` or `.parquet` | |
/// | `read` | usual names | columns, and whether bad rows are skipped | |
/// | `length` | the adapter's | how long rows may be | |
/// | `batch_size` | 32 | rows of a forward pass | ≥ 1 |
/// | `diffusion` | see [`DiffusionOptions`] | the loss of a diffusion model; another kind of model refuses one | |
/// | `pairs` | `None` | rows are pairs of answers, with this loss | |
#[derive(Clone, Debug)]
pub struct Evaluate {
    /// The model.
    pub model: String,
    /// The folder of an adapter.
    pub adapter: Option<PathBuf>,
    /// The tokenizer, if it is not the model's own.
    pub tokenizer: Option<PathBuf>,
    /// The rows.
    pub rows: PathBuf,
    /// How rows are read.
    pub read: ReadOptions,
    /// How long rows may be.
    pub length: LengthOptions,
    /// Rows of a forward pass.
    pub batch_size: usize,
    /// The loss of a diffusion model; `None` for the usual one.
    pub diffusion: Option<DiffusionOptions>,
    /// The loss of rows that are pairs of answers.
    pub pairs: Option<PairLoss>,
}

/// What a model predicts for rows.
pub struct Evaluated {
    /// The kind of the model: `classification`, `language-model`, `vision-language`, `diffusion`.
    pub kind: &'static str,
    /// The rows with their predictions.
    pub rows: Rows,
    /// How good the predictions are.
    pub quality: Quality,
    /// The labels of a classifier.
    pub labels: Option<Labels>,
    /// The most tokens of a row.
    pub max_length: usize,
    /// The files of the model and its adapter.
    pub files: ModelFiles,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self {
            model: String::new(),
            adapter: None,
            tokenizer: None,
            rows: PathBuf::new(),
            read: ReadOptions::default(),
            length: LengthOptions::default(),
            batch_size: 32,
            diffusion: None,
            pairs: None,
        }
    }
}

impl Evaluate {
    /// Evaluates the model; `observe` is called with progress and notices.
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    ///
    /// # Panics
    ///
    /// If `batch_size` is 0.
    pub fn run(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<Evaluated, RunError> {
        let mut files = ModelFiles::find(&self.model, self.tokenizer.as_deref(), self.adapter.as_deref())?;
        files.read_images(&self.read, None)?;
        files.set_diffusion(self.diffusion.as_ref())?;
        files.set_pairs(self.pairs)?;
        files.kind().evaluate(self, files, device, observe)
    }
}

/// [`Evaluate::run`] of one kind of model.
pub(crate) fn evaluate<K: Kind>(
    run: &Evaluate,
    files: ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Evaluated, RunError> {
    let failed = RunError::of_rows(Set::Query, &run.rows);
    let rows = unchanged(&run.rows, || Dataset::<K::Content>::read(Set::Query, &run.rows, &run.read).map_err(failed))?;
    let adapter = files.read_adapter()?;
    let prepared = K::load(&files, adapter.as_ref(), &rows, device)?;
    files.check_unchanged()?;
    prepared.notify_of_tokenizer(observe);
    let limit = run.length.limit::<K>(&prepared.model, files.note().map(|note| note.max_length))?;
    let set = Samples::<K>::new(&prepared, rows, limit, run.read.skip_bad_rows)?;
    notify(&prepared.processor, &set, observe);
    let Prepared { model, processor } = &prepared;
    let order = set.by_length();
    let of_batch = run.batch_size.min(order.len());
    let growth = Growth::of(device, of_batch, &mut |rows| {
        let samples: Vec<_> = order[order.len() - rows..].iter().map(|&sample| &set.samples[sample]).collect();
        K::predict(model, &samples).map(drop)
    })?;
    if let Some(shortage) = growth.and_then(|growth| growth.shortage(of_batch)) {
        observe(Event::Notice(Notice::Shortage(shortage)));
    }
    let all: Vec<usize> = (0..set.samples.len()).collect();
    let predictions = predict(model, &set, &all, run.batch_size, None, observe)?;
    let labels = K::labels(processor).cloned();
    let quality = Quality::new(&predictions, labels.as_ref());
    warn_of(&quality, &set.data.path, Purpose::Evaluation, observe);
    let (max_length, facts) = (limit.tokens(), set.facts());
    Ok(Evaluated { kind: K::NAME, rows: Rows::new(set, facts, predictions), quality, labels, max_length, files })
}

impl Evaluated {
    /// Stages a table of the predictions, in the order of the rows: id, label, predicted label, its probability and
    /// the loss, or of a language model id, scored tokens and the mean loss of a token, or of a diffusion model id and loss. The file's ending chooses the
    /// format: `.csv`, `.jsonl` or `.parquet`.
    ///
    /// # Errors
    ///
    /// If no format has this ending, or the file cannot be written.
    pub fn stage_predictions<'a>(&self, path: &'a Path, metadata: &Map<String, Value>) -> Result<Staged<'a>, RunError> {
        let (Rows { predictions, .. }, ids) = (&self.rows, self.rows.ids());
        let mut columns = vec![("id", ids.column(0..predictions.len()))];
        if let Some(labels) = &self.labels {
            let guesses: Vec<Guess> = predictions.iter().filter_map(|prediction| prediction.guess()).collect();
            let named = |class: fn(&Guess) -> usize| {
                Column::Text(guesses.iter().map(|guess| labels.names[class(guess)].as_str()).collect())
            };
            columns.push(("label", named(|guess| guess.label)));
            columns.push(("predicted", named(|guess| guess.class)));
            columns.push(("probability", Column::Double(guesses.iter().map(|guess| guess.probability).collect())));
        } else if let Quality::Pairs(_) = self.quality {
            columns.push(("margin", Column::Double(predictions.iter().filter_map(|p| p.margin()).collect())));
        } else if !matches!(self.quality, Quality::Pictures(_)) {
            let count = |target| match target {
                Predicted::Tokens(count) => count as i64,
                Predicted::Class(_) | Predicted::Picture | Predicted::Pair { .. } => 1,
            };
            columns.push(("tokens", Column::Whole(predictions.iter().map(|p| count(p.target)).collect())));
        }
        columns.push(("loss", Column::Double(self.rows.losses())));
        Ok(stage_table(path, &Table::new(columns), metadata)?)
    }
}
