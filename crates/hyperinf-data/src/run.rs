use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_gradients::Estimate;
use hyperinf_models::{ModelError, PairLoss, RecordedParts};
use hyperinf_scoring::{Amount, Options, QueryMode, RankBy, detect};
use hyperinf_store::{BATCH_BYTES, FileStamp, OutputFolder, ProjectionSpec, check_range};

use crate::crew::Crew;
use crate::crew_blocks::Job;
use crate::cross_check::{CrossCheck, Scoring};
use crate::dataset::ReadOptions;
use crate::diffusion_options::DiffusionOptions;
use crate::event::{Event, Notice};
use crate::influence::{Detection, Influence};
use crate::large_blocks::LargeBlocks;
use crate::model_files::ModelFiles;
use crate::pattern::Pattern;
use crate::refined::Refine;
use crate::run_of_kind::Inputs;
use crate::samples::LengthOptions;
use crate::scored::Scored;
use crate::stop::Stop;
use crate::{Choice, RunError, ensemble, estimate, metric, positions, refined};

/// The names of the files of gradients in [`Run::out`].
pub const GRADIENT_FILES: [&str; 2] = ["train_gradients.safetensors", "query_gradients.safetensors"];

/// A run from rows to scores: which training rows helped or harmed the predictions on the query rows.
///
/// The gradients of each row with respect to the model's adapters go through files in `out`, one block after the
/// other, so that memory is bounded whatever the method; an interrupted run resumes from them. The scores are those of
/// [`hyperinf_store::score`].
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `model` | empty | a folder, a `.gguf` or llama2.c `.bin` file, or a name on the hub | |
/// | `adapter` | `None` | the folder of the adapter | needed where its gradients are scored |
/// | `ensemble` | none | further adapters: scores of [`Run::attribute`] and of rows are the mean over all | |
/// | `tokenizer` | the adapter's or model's | a folder with `tokenizer.json`, or a llama2.c vocabulary | |
/// | `train`, `query` | empty | the rows: `.jsonl`, `.csv`, `.tsv` or `.parquet` | |
/// | `read` | usual names | columns, and whether bad rows are skipped | |
/// | `length` | the adapter's | how long rows may be | |
/// | `options` | HyperINF, each query | method, damping, normalisation, partition | see [`Options`] |
/// | `estimate` | empirical | the estimate of the curvature | |
/// | `projection` | `None` | a projection of every block's gradients | |
/// | `metric` | `None` | AdamW's second moments, a recording or an optimizer's state: gradients are in their metric | |
/// | `refine` | `None` | steps from the inverse of each block to that of all | see [`Refine`] |
/// | `seeds` | `None` | error bars: the mean query is scored with this many random seeds | 2 to 1,000,000 |
/// | `positions` | `None` | scores of tokens: of so many rows at either end of each ranking | |
/// | `layers` | adapters | the layers whose gradients are taken | needs an adapter, or another choice |
/// | `large_blocks` | see [`LargeBlocks`] | how recorded weights are projected that are too large | |
/// | `diffusion` | see [`DiffusionOptions`] | the loss of a diffusion model; another kind of model refuses one | |
/// | `pairs` | `None` | rows are pairs of answers, with this loss | |
/// | `blocks` | all | the blocks whose gradients are scored, by name | at least one |
/// | `batch_size` | 16 | rows of a backward pass | ≥ 1 |
/// | `batch_bytes` | [`BATCH_BYTES`] | bytes of stored gradients that are scored at once, where not all must be | > 0 |
/// | `index` | `None` | an [`Index`](crate::Index) that the training gradients are taken from; built if it is missing | |
/// | `keep_factors` | `true` | whether a curvature that was computed is kept in the index for later runs | |
/// | `out` | `hyperinf-out` | the folder of the gradients; created if missing | |
/// | `device_name` | the device itself | the device's name: gradients of another device are not reused | |
/// | `stop` | never | a request to stop between two batches | |
/// | `crew` | `None` | the ranks that share the work, of which this is rank 0 | see [`Crew`] |
#[derive(Clone)]
pub struct Run {
    /// The model.
    pub model: String,
    /// The folder of the adapter.
    pub adapter: Option<PathBuf>,
    /// Further adapters of the same model and rows, of trainings with other seeds.
    pub ensemble: Vec<PathBuf>,
    /// The tokenizer, if it is not the model's own.
    pub tokenizer: Option<PathBuf>,
    /// The training rows.
    pub train: PathBuf,
    /// The rows that training rows are scored for.
    pub query: PathBuf,
    /// How rows are read.
    pub read: ReadOptions,
    /// How long rows may be.
    pub length: LengthOptions,
    /// How rows are scored.
    pub options: Options,
    /// The estimate of the curvature.
    pub estimate: Estimate,
    /// A projection of the gradients before they are scored.
    pub projection: Option<ProjectionSpec>,
    /// The file of AdamW's second moments: every entry of a gradient is divided by the root of `√v̂ + ε`, so that inner
    /// products are those of LESS (arXiv 2402.04333), and a curvature is that of the scaled parameters.
    pub metric: Option<PathBuf>,
    /// How the method's inverse is refined.
    pub refine: Option<Refine>,
    /// Seeds of a random projection or, without one, of the estimate: for error bars of the mean query.
    pub seeds: Option<usize>,
    /// Scores of tokens, of so many rows at either end of each ranking.
    pub positions: Option<usize>,
    /// The layers whose gradients are taken.
    pub layers: RecordedParts,
    /// How recorded weights are projected that are too large for a gradient per row.
    pub large_blocks: LargeBlocks,
    /// The loss of a diffusion model; `None` for the usual one.
    pub diffusion: Option<DiffusionOptions>,
    /// The loss of rows that are pairs of answers.
    pub pairs: Option<PairLoss>,
    /// The blocks whose gradients are scored.
    pub blocks: Option<Pattern>,
    /// Rows of a backward pass.
    pub batch_size: usize,
    /// What rankings and selections are by.
    pub rank_by: RankBy,
    /// The memory in bytes that scoring may take; `None` for what the system grants.
    pub memory: Option<f64>,
    /// Bytes of stored gradients that are scored at once, where not all must be; the last bits of scores depend on it.
    pub batch_bytes: usize,
    /// An index that the training gradients are taken from, and kept in: it is built if it is missing.
    pub index: Option<PathBuf>,
    /// Whether a curvature that was computed is kept in the index for later runs.
    pub keep_factors: bool,
    /// The folder of the gradients.
    pub out: PathBuf,
    /// The name of the device, a part of the key under which gradients are reused.
    pub device_name: String,
    /// A request to stop between two batches.
    pub stop: Stop,
    /// The ranks that share the work.
    pub crew: Option<Crew>,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            model: String::new(),
            adapter: None,
            ensemble: Vec::new(),
            tokenizer: None,
            train: PathBuf::new(),
            query: PathBuf::new(),
            read: ReadOptions::default(),
            length: LengthOptions::default(),
            options: Options::default(),
            estimate: Estimate::default(),
            projection: None,
            metric: None,
            refine: None,
            seeds: None,
            positions: None,
            layers: RecordedParts::default(),
            large_blocks: LargeBlocks::default(),
            diffusion: None,
            pairs: None,
            blocks: None,
            batch_size: 16,
            rank_by: RankBy::default(),
            memory: None,
            batch_bytes: BATCH_BYTES,
            index: None,
            keep_factors: true,
            out: PathBuf::from("hyperinf-out"),
            device_name: String::new(),
            stop: Stop::default(),
            crew: None,
        }
    }
}

impl Run {
    /// Checks the choices, without a look at any file; the run does so itself.
    ///
    /// # Errors
    ///
    /// [`RunError::Conflict`], [`RunError::Seeds`], or [`RunError::Model`] for a batch of no rows.
    pub fn validate(&self) -> Result<(), RunError> {
        if self.batch_size == 0 {
            return Err(ModelError::Setting { name: "batch_size", value: 0.0, expected: "at least 1" }.into());
        }
        estimate::check(self.estimate, &self.options, self.projection.is_some())?;
        positions::check(self)?;
        refined::check(self)?;
        metric::check(self)?;
        ensemble::check(self)?;
        self.check_draws()
    }

    /// Scores every training row for every query row, or for their mean.
    ///
    /// `observe` is called with progress and notices.
    ///
    /// # Errors
    ///
    /// See [`RunError`]. Gradients that were computed remain in hidden files, from which the same run resumes.
    pub fn attribute(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<Influence, RunError> {
        let mut found = self.influence(device, None, &[], observe)?;
        self.average(&mut found, device, observe)?;
        Ok(found)
    }

    /// [`Run::attribute`] by another method, as [`Run::detect_again`].
    ///
    /// # Errors
    ///
    /// As [`Run::attribute`].
    pub fn attribute_again(
        &self,
        mut earlier: Influence,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Influence, RunError> {
        self.score_again(&mut earlier, device, observe)?;
        self.average(&mut earlier, device, observe)?;
        Ok(earlier)
    }

    /// Scores the training rows for the mean query, the most suspicious first: wrong labels have the most negative
    /// scores. `remove` is how many of them to remove.
    ///
    /// # Errors
    ///
    /// As [`Run::attribute`], or [`RunError::Amount`].
    pub fn detect(
        &self,
        remove: Option<Amount>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Detection, RunError> {
        ensemble::refuse(self, Choice::Detect)?;
        let influence = self.of_mean().influence(device, remove, &[], observe)?;
        self.detect_in(influence, remove, device, observe)
    }

    /// [`Run::detect`] by another method, from the gradients of an earlier run: the model runs only where the method's
    /// curvature needs it. Of this run only `options`, `estimate`, `projection` and `seeds` may differ.
    ///
    /// # Errors
    ///
    /// As [`Run::detect`].
    pub fn detect_again(
        &self,
        mut earlier: Influence,
        remove: Option<Amount>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Detection, RunError> {
        self.of_mean().score_again(&mut earlier, device, observe)?;
        self.detect_in(earlier, remove, device, observe)
    }

    fn detect_in(
        &self,
        influence: Influence,
        remove: Option<Amount>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Detection, RunError> {
        let run = self.of_mean();
        let (pair, known) = (&influence.pair, influence.known.as_deref());
        let self_influence = Job { run: &run, pair, known, options: &run.options, draw: 0, device }.self_influence()?;
        check_range(&influence.attribution.scores)?;
        let scores = &influence.attribution.scores.rows[0];
        let order = detect(scores, Amount::Share(1.0))?;
        let removed = remove.map_or(Ok(Vec::new()), |amount| detect(scores, amount))?;
        let cross_check = run.cross_check(&influence, device)?;
        if let Some(check) = cross_check.filter(CrossCheck::prefers_loss) {
            observe(Event::Notice(Notice::LossFindsMore { path: run.query.clone(), check }));
        }
        Ok(Detection { influence, order, self_influence, removed, cross_check })
    }

    pub(crate) fn score_again(
        &self,
        earlier: &mut Influence,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RunError> {
        self.validate()?;
        earlier.pair.memory = self.memory;
        let Scored { attribution, repeats, known, positions, refinement } =
            Scored::new(self, &mut earlier.pair, earlier.model.as_ref(), device, observe)?;
        (earlier.positions, earlier.refinement) = (positions, refinement);
        (earlier.attribution, earlier.repeats, earlier.known) = (attribution, repeats, known);
        (earlier.estimate, earlier.query_mode, earlier.rank_by) = (self.estimate, self.options.query, self.rank_by);
        Ok(())
    }

    /// Whether scores or losses find wrong labels among the validation rows.
    fn cross_check(&self, influence: &Influence, device: &Device) -> Result<Option<CrossCheck>, RunError> {
        // It would judge the inverse of each block.
        if self.refine.is_some() {
            return Ok(None);
        }
        // Exchanging the answers of a pair changes its gradient as exchanging two labels does.
        let two = influence.labels.as_ref().is_some_and(|labels| labels.names.len() == 2);
        if !two && self.pairs.is_none() {
            return Ok(None);
        }
        let scoring = Scoring {
            train: influence.pair.train.path(),
            query: influence.pair.query.file.path(),
            known: influence.known.as_deref().or_else(|| influence.pair.own_curvature(&self.options)),
            run: self,
        };
        scoring.cross_check(&influence.query.predictions, device)
    }

    /// The same run for the mean query.
    pub(crate) fn of_mean(&self) -> Self {
        Self { options: Options { query: QueryMode::Mean, ..self.options.clone() }, ..self.clone() }
    }

    /// What the other ranks of a crew do while rank 0 runs [`Run::attribute`], [`Run::detect`] or [`Run::select`]: batches
    /// of gradients, of predictions and of merged blocks, blocks, and tokens, until rank 0 has no more of them. `runs` are the same as there, one per method
    /// in the order of [`Crew::for_method`], and `targets` the further files of a selection.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use hyperinf_data::{Crew, DEADLINE, Influence, Run, RunError};
    /// use hyperinf_scoring::Threads;
    ///
    /// /// Attributes with a thread for each device.
    /// fn attribute(run: &Run, devices: &[Device]) -> Result<Influence, RunError> {
    ///     let with = |team| Run { crew: Some(Crew::new(Box::new(team), DEADLINE)), ..run.clone() };
    ///     let mut runs: Vec<Run> = Threads::team(devices.len()).into_iter().map(with).collect();
    ///     std::thread::scope(|scope| {
    ///         let leader = runs.remove(0);
    ///         for (run, device) in runs.into_iter().zip(&devices[1..]) {
    ///             scope.spawn(move || Run::assist(&[run], &[], device));
    ///         }
    ///         leader.attribute(&devices[0], &mut |_| ())
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`RunError`]; [`RunError::Team`] if rank 0 has ended.
    ///
    /// # Panics
    ///
    /// Without runs.
    pub fn assist(runs: &[Self], targets: &[PathBuf], device: &Device) -> Result<(), RunError> {
        runs.iter().try_for_each(Self::validate)?;
        let files = runs[0].files()?;
        files.kind().assist(runs, &files, targets, device)
    }

    /// The files of the model and its adapter, ready to be read.
    pub(crate) fn files(&self) -> Result<ModelFiles, RunError> {
        let mut files = ModelFiles::find(&self.model, self.tokenizer.as_deref(), self.adapter.as_deref())?;
        files.read_images(&self.read, Some(&self.out))?;
        files.set_diffusion(self.diffusion.as_ref())?;
        files.set_pairs(self.pairs)?;
        Ok(files)
    }

    pub(crate) fn influence(
        &self,
        device: &Device,
        amount: Option<Amount>,
        targets: &[PathBuf],
        observe: &mut dyn FnMut(Event),
    ) -> Result<Influence, RunError> {
        self.validate()?;
        let folder = OutputFolder::new(&self.out, &[], &[])?;
        let files = self.files()?;
        let kind = files.kind();
        kind.influence(self, Inputs { files, folder, amount, targets }, device, observe)
    }
}

/// Reads a file, and fails if it was changed in the meantime.
pub(crate) fn unchanged<T>(path: &Path, read: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
    let stamp = || path.is_file().then(|| FileStamp::at(path).ok()).flatten();
    let before = stamp();
    let read = read()?;
    if before == stamp() { Ok(read) } else { Err(RunError::Changed { path: path.to_owned() }) }
}
