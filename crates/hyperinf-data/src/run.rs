use std::fs::create_dir_all;
use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf_gradients::{Estimate, Target};
use hyperinf_models::Adapter;
use hyperinf_scoring::{Amount, Attribution, Options, QueryMode, Set, detect, select};
use hyperinf_store::{Directions, GradientPair, ProjectionSpec, StoreError, check_range, score, self_influence};

use crate::dataset::{Dataset, ReadOptions};
use crate::event::{Event, Notice};
use crate::gradients::Extractor;
use crate::influence::{Detection, Influence, Rows, Selection};
use crate::kind::{Kind, Prepared};
use crate::model_files::ModelFiles;
use crate::pattern::Pattern;
use crate::samples::{LengthOptions, Samples};
use crate::{Choice, RunError, estimate};

/// The names of the files of gradients in [`Run::out`].
pub const GRADIENT_FILES: [&str; 2] = ["train_gradients.safetensors", "query_gradients.safetensors"];

/// The most seeds of error bars.
const MOST_SEEDS: usize = 1_000_000;

/// A run from rows to scores: which training rows helped or harmed the predictions on the query rows.
///
/// The gradients of each row with respect to the model's adapters go through files in `out`, one block after the
/// other, so that memory is bounded whatever the method; an interrupted run resumes from them. The scores are those of
/// [`hyperinf_store::score`].
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `model` | empty | a folder, a `.gguf` or llama2.c `.bin` file, or a name on the hub | |
/// | `adapter` | `None` | the folder of the adapter whose gradients are scored | needed |
/// | `tokenizer` | the model's | a folder with `tokenizer.json`, or a llama2.c vocabulary | |
/// | `train`, `query` | empty | the rows: `.jsonl`, `.csv`, `.tsv` or `.parquet` | |
/// | `read` | usual names | columns, and whether bad rows are skipped | |
/// | `length` | the adapter's | how long rows may be | |
/// | `options` | HyperINF, each query | method, damping, normalisation, partition | see [`Options`] |
/// | `estimate` | empirical | the estimate of the curvature | |
/// | `projection` | `None` | a projection of every block's gradients | |
/// | `seeds` | `None` | error bars: the mean query is scored with this many random seeds | 2 to 1,000,000 |
/// | `blocks` | all | the blocks whose gradients are scored, by name | at least one |
/// | `batch_size` | 16 | rows of a backward pass | ≥ 1 |
/// | `out` | `hyperinf-out` | the folder of the gradients; created if missing | |
/// | `device_name` | the device itself | the device's name: gradients of another device are not reused | |
#[derive(Clone)]
pub struct Run {
    /// The model.
    pub model: String,
    /// The folder of the adapter.
    pub adapter: Option<PathBuf>,
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
    /// Seeds of a random projection or, without one, of the estimate: for error bars of the mean query.
    pub seeds: Option<usize>,
    /// The blocks whose gradients are scored.
    pub blocks: Option<Pattern>,
    /// Rows of a backward pass.
    pub batch_size: usize,
    /// The folder of the gradients.
    pub out: PathBuf,
    /// The name of the device, a part of the key under which gradients are reused.
    pub device_name: String,
}

/// The random choices of a scoring.
#[derive(Clone, Copy)]
struct Draws {
    estimate: Estimate,
    projection: Option<ProjectionSpec>,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            model: String::new(),
            adapter: None,
            tokenizer: None,
            train: PathBuf::new(),
            query: PathBuf::new(),
            read: ReadOptions::default(),
            length: LengthOptions::default(),
            options: Options::default(),
            estimate: Estimate::default(),
            projection: None,
            seeds: None,
            blocks: None,
            batch_size: 16,
            out: PathBuf::from("hyperinf-out"),
            device_name: String::new(),
        }
    }
}

impl Run {
    /// Checks the choices, without a look at any file; the run does so itself.
    ///
    /// # Errors
    ///
    /// [`RunError::Conflict`] or [`RunError::Seeds`].
    pub fn validate(&self) -> Result<(), RunError> {
        estimate::check(self.estimate, &self.options, self.projection.is_some())?;
        self.draws().map(drop)
    }

    /// Scores every training row for every query row, or for their mean.
    ///
    /// `observe` is called with progress and notices.
    ///
    /// # Errors
    ///
    /// See [`RunError`]. Gradients that were computed remain in hidden files, from which the same run resumes.
    ///
    /// # Panics
    ///
    /// If `batch_size` is 0.
    pub fn attribute(&self, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<Influence, RunError> {
        self.influence(device, None, observe)
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
        let run = self.of_mean();
        let influence = run.influence(device, remove, observe)?;
        let (pair, known) = (&influence.pair, influence.known.as_deref());
        let self_influence = self_influence(pair, known, &run.options, device)?;
        check_range(&influence.attribution.scores)?;
        let scores = &influence.attribution.scores.rows[0];
        let order = detect(scores, Amount::Share(1.0))?;
        let removed = remove.map_or(Ok(Vec::new()), |amount| detect(scores, amount))?;
        Ok(Detection { influence, order, self_influence, removed })
    }

    /// Scores the training rows for the mean query, and selects those that help it most.
    ///
    /// # Errors
    ///
    /// As [`Run::attribute`], or [`RunError::Amount`].
    pub fn select(&self, keep: Amount, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<Selection, RunError> {
        let influence = self.of_mean().influence(device, Some(keep), observe)?;
        let selected = select(&influence.attribution.scores.rows[0], keep)?;
        Ok(Selection { influence, selected })
    }

    /// The same run for the mean query.
    fn of_mean(&self) -> Self {
        Self { options: Options { query: QueryMode::Mean, ..self.options.clone() }, ..self.clone() }
    }

    fn influence(
        &self,
        device: &Device,
        amount: Option<Amount>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Influence, RunError> {
        self.validate()?;
        create_dir_all(&self.out).map_err(|e| StoreError::output(&self.out, e))?;
        let files = ModelFiles::find(&self.model, self.tokenizer.as_deref(), self.adapter.as_deref())?;
        files.kind().influence(self, files, amount, device, observe)
    }

    /// All scorings: the requested one and, for error bars, those with further seeds.
    fn draws(&self) -> Result<Vec<Draws>, RunError> {
        let first = Draws { estimate: self.estimate, projection: self.projection };
        let Some(count) = self.seeds else { return Ok(vec![first]) };
        let refused = |second, reason| Err(RunError::Conflict { first: Choice::ErrorBars, second, reason });
        if self.options.query != QueryMode::Mean {
            return refused(Choice::EachQuery, "error bars are for the mean of the queries");
        }
        if !(2..=MOST_SEEDS).contains(&count) {
            return Err(RunError::Seeds { count, most: MOST_SEEDS });
        }
        let projections = self.projection.map(|first| first.further(count - 1)).unwrap_or_default();
        let mut draws = vec![first];
        draws.extend(projections.into_iter().map(|other| Draws { projection: Some(other), ..first }));
        if draws.len() == 1 {
            draws.extend(
                estimate::further(self.estimate, count - 1).into_iter().map(|estimate| Draws { estimate, ..first }),
            );
        }
        if draws.len() == 1 {
            let reason = "only a random projection and a sampled or sketched estimate depend on a seed";
            return refused(Choice::NothingRandom, reason);
        }
        Ok(draws)
    }
}

/// [`Run::influence`] of one kind of model.
pub(crate) fn influence<K: Kind>(
    run: &Run,
    files: ModelFiles,
    amount: Option<Amount>,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Influence, RunError> {
    K::check_estimate(run.estimate)?;
    let read = |set, path: &PathBuf| {
        let failed = |source| RunError::Dataset { set, path: path.clone(), source };
        Dataset::<K::Content>::read(set, path, &run.read).map_err(failed)
    };
    let (train, query) = (read(Set::Train, &run.train)?, read(Set::Query, &run.query)?);
    check_amount(amount, train.rows.len())?;
    let folder = files.adapter.as_ref().ok_or_else(|| RunError::NoAdapter { model: run.model.clone() })?;
    let mut adapter = Adapter::read(folder).map_err(files.of_adapter())?;
    // Nothing is trained any more.
    adapter.config.lora.dropout = 0.0;
    let prepared = K::load(&files, &adapter, &train, device)?;
    let limit = run.length.limit::<K>(&prepared.model, files.note().map(|note| note.max_length))?;
    let samples = |data| Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows);
    let (train, query) = (samples(train)?, samples(query)?);
    notify(&prepared.processor, &train, observe);
    notify(&prepared.processor, &query, observe);
    let Prepared { model, processor } = &prepared;
    let device_name = if run.device_name.is_empty() { format!("{device:?}") } else { run.device_name.clone() };
    let key = format!("{} {} {device_name}", env!("CARGO_PKG_VERSION"), files.fingerprint());
    let extractor = Extractor::<K> { run, model, key };
    let gradients = [
        extractor.write(GRADIENT_FILES[0], Target::Loss, &train, observe)?,
        extractor.write(GRADIENT_FILES[1], Target::Measure, &query, observe)?,
    ];
    let mut pair = GradientPair::open(gradients[0].path(), gradients[1].path())?;
    if let Some(spec) = run.projection.filter(|spec| pair.is_within(spec.rank)) {
        if run.seeds.is_some() && spec.directions != Directions::Principal {
            return Err(RunError::Conflict {
                first: Choice::ErrorBars,
                second: Choice::Projection,
                reason: "no side of any block is longer than the rank, so nothing is projected",
            });
        }
        observe(Event::Notice(Notice::IdleProjection { rank: spec.rank }));
    }
    let draws = run.draws()?;
    let mut score = |Draws { estimate, projection }| -> Result<_, RunError> {
        pair.project(projection, device)?;
        let known = estimate::of_model::<K>(run, estimate, model, &train, observe)?;
        let found = score(&pair, known.as_deref(), &run.options, device)?;
        Ok((known, found))
    };
    let (known, mut attribution) = score(draws[0])?;
    let mut repeats = Vec::new();
    for &other in &draws[1..] {
        let Attribution { scores, blocks, .. } = score(other)?.1;
        repeats.extend(scores.rows);
        attribution.keep_worst(blocks);
    }
    if !repeats.is_empty() {
        repeats.insert(0, attribution.scores.rows[0].clone());
        // Everything else in the result is that of the first seed.
        pair.project(run.projection, device)?;
    }
    let [train_writer, query_writer] = &gradients;
    let (train, query) = (Rows::new(train, train_writer), Rows::new(query, query_writer));
    Ok(Influence {
        kind: K::NAME,
        train,
        query,
        attribution,
        repeats,
        estimate: run.estimate,
        known,
        labels: K::labels(processor).cloned(),
        max_length: limit.tokens(),
        pair,
        files,
        query_mode: run.options.query,
        gradients,
    })
}

/// Reports rows that were left out or cut, and how the others are read.
pub(crate) fn notify<K: Kind>(processor: &K::Processor, set: &Samples<K>, observe: &mut dyn FnMut(Event)) {
    let path = &set.data.path;
    for notice in K::notices(processor, &set.data) {
        observe(Event::Notice(notice));
    }
    if !set.data.bad.is_empty() {
        let (path, bad, total) = (path.clone(), set.data.bad.clone(), set.data.total);
        observe(Event::Notice(Notice::LeftOut { path, bad, total }));
    }
    if let Some(first) = set.cut.first() {
        let (path, rows, first) = (path.clone(), set.cut.len(), first.row);
        observe(Event::Notice(Notice::Cut { path, rows, first }));
    }
}

/// Fails if the amount is no rows, or more than there are.
fn check_amount(amount: Option<Amount>, rows: usize) -> Result<(), RunError> {
    let asked = match amount {
        None => return Ok(()),
        Some(Amount::Count(count)) => count,
        Some(Amount::Share(share)) => (share * rows as f64).round() as usize,
    };
    if (1..=rows).contains(&asked) { Ok(()) } else { Err(RunError::Amount { asked, rows }) }
}
