//! [`Run`]s of one kind of model.

use std::ops::Range;
use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf_models::{Limit, RecordedParts, record};
use hyperinf_scoring::{Amount, Set};
use hyperinf_store::{GradientPair, GradientWriter, OutputFolder, RunKey};

use crate::crew_work::{common_key, serve, several};
use crate::dataset::Dataset;
use crate::event::{Event, Purpose, warn_of};
use crate::gradients::Extractor;
use crate::index::{Index, IndexedRows, of_run};
use crate::influence::{Influence, Rows, Target as QueryTarget, target_file};
use crate::kind::{Kind, Prepared};
use crate::large_blocks::LargeBlocks;
use crate::metric::{self, Metric};
use crate::model_files::ModelFiles;
use crate::prediction::{Prediction, predict};
use crate::run::{GRADIENT_FILES, Run, unchanged};
use crate::samples::{Samples, notify};
use crate::scored::{ModelSamples, Scored};
use crate::selected::check_amount;
use crate::{Choice, RunError, refined};

/// The generation of per-sample gradients: another one where the same program version would write other numbers.
pub(crate) const GENERATION: &str = "4";

/// What a run works on besides its settings.
pub(crate) struct Inputs<'a> {
    pub(crate) files: ModelFiles,
    pub(crate) folder: OutputFolder,
    /// The rows that will be asked for.
    pub(crate) amount: Option<Amount>,
    /// Further files of query rows.
    pub(crate) targets: &'a [PathBuf],
}

/// [`Run::influence`] of one kind of model.
pub(crate) fn influence<K: Kind>(
    run: &Run,
    inputs: Inputs<'_>,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Influence, RunError> {
    let Inputs { files, folder, amount, targets } = inputs;
    K::check_estimate(run.estimate)?;
    let index = run.index.as_deref().map(|folder| Index::of_training(run, folder));
    let large_blocks = index.as_ref().map_or(run.large_blocks, |index| index.large_blocks);
    let run = &Run { large_blocks, ..run.clone() };
    let Ready { prepared, limit, key, mut train, query, others } =
        ready::<K>(run, &files, amount, targets, device, observe)?;
    let Prepared { model, processor } = prepared;
    let settings = K::settings(&model);
    if run.positions.is_some() && train.samples.first().is_some_and(|sample| K::token_ids(sample).is_none()) {
        let reason = "its rows are no tokens";
        return Err(RunError::Conflict { first: Choice::Positions, second: Choice::Kind(K::NAME), reason });
    }
    let metric = Metric::of_run::<K>(run, &files, &model, train.samples.first())?;
    let extractor = Extractor::<K> { run, model: &model, key: in_metric(key, metric.as_ref()), metric };
    if let Some(crew) = several(run) {
        let sets: Vec<&Samples<K>> = [&train, &query].into_iter().chain(&others).collect();
        crew.meet(&common_key(&extractor.key, Some(run), &sets))?;
    }
    extractor.check_memory(&train, &query, device)?;
    let projected = extractor.large_blocks(&train)?;
    refined::check_inputs(run, train.samples.len(), !projected.is_empty())?;
    metric::check_projects(run, !projected.is_empty())?;
    let (of_train, train_gradients, train_path) = match &index {
        Some(index) => {
            let rows = IndexedRows { files: &files, model: &model, set: &train, limit };
            let (found, predictions) = of_run::<K>(index, run, rows, device, observe)?;
            (Some(predictions), None, found.path().to_owned())
        }
        None => {
            let writer = extractor.write(GRADIENT_FILES[0], 0, &train, observe)?;
            let path = writer.path().to_owned();
            (None, Some(writer), path)
        }
    };
    let query_gradients = extractor.write(GRADIENT_FILES[1], 1, &query, observe)?;
    let mut pair = GradientPair::open(&train_path, query_gradients.path())?;
    (pair.memory, pair.batch_bytes) = (run.memory, run.batch_bytes);
    let labels = K::labels(&processor).cloned();
    let of_train = match (of_train, &train_gradients) {
        (None, Some(writer)) => predictions::<K>(run, &model, (0, &train), 0..train.samples.len(), writer, observe)?,
        (found, _) => found.unwrap_or_default(),
    };
    let of_query = predictions::<K>(run, &model, (1, &query), 0..query.samples.len(), &query_gradients, observe)?;
    let mut found = Vec::new();
    for (target, set) in others.into_iter().enumerate() {
        let writer = extractor.write(&target_file(target), 2 + target, &set, observe)?;
        let mut pair = GradientPair::open(&train_path, writer.path())?;
        pair.batch_bytes = run.batch_bytes;
        let of = predictions::<K>(run, &model, (2 + target, &set), 0..set.samples.len(), &writer, observe)?;
        let facts = set.facts();
        found.push(QueryTarget { rows: Rows::new(set, facts, of), pair, gradients: writer });
    }
    let (facts, query_facts) = (train.facts(), query.facts());
    let metric = extractor.metric.clone();
    let used = metric.as_ref().map(|metric| metric.used.clone());
    let samples = std::mem::take(&mut train.samples);
    let model = ModelSamples::<K> { model, samples, processor, metric };
    let Scored { attribution, repeats, known, positions, refinement } =
        Scored::new(run, &mut pair, &model, device, observe)?;
    let (train, query) = (Rows::new(train, facts, of_train), Rows::new(query, query_facts, of_query));
    warn_of(&train.quality(labels.as_ref()), &train.data.path, Purpose::Scores, observe);
    Ok(Influence {
        kind: K::NAME,
        train,
        query,
        attribution,
        repeats,
        estimate: run.estimate,
        layers: run.layers,
        settings,
        projected: (!projected.is_empty()).then_some((projected, run.large_blocks.rank)),
        known,
        positions,
        refinement,
        ensemble: Vec::new(),
        metric: used,
        labels,
        max_length: limit.tokens(),
        pair,
        files,
        query_mode: run.options.query,
        rank_by: run.rank_by,
        targets: found,
        gradients: (train_gradients, query_gradients),
        _folder: folder,
        model: Box::new(model),
    })
}

/// Takes the gradients of a run's batches and scores blocks for rank 0, until it has no more of them. `runs` are those of
/// all methods.
pub(crate) fn assist<K: Kind>(
    runs: &[Run],
    files: &ModelFiles,
    targets: &[PathBuf],
    device: &Device,
) -> Result<(), RunError> {
    let index = runs[0].index.as_deref().map(|folder| Index::of_training(&runs[0], folder));
    let large_blocks = index.map_or(runs[0].large_blocks, |index| index.large_blocks);
    let run = &Run { large_blocks, ..runs[0].clone() };
    let Ready { prepared, key, train, query, others, .. } = ready::<K>(run, files, None, targets, device, &mut |_| {})?;
    let metric = Metric::of_run::<K>(run, files, &prepared.model, train.samples.first())?;
    let key = in_metric(key, metric.as_ref());
    let extractor = Extractor::<K> { run, model: &prepared.model, key, metric };
    let sets: Vec<&Samples<K>> = [&train, &query].into_iter().chain(&others).collect();
    serve(runs, &extractor, &sets, device)
}

/// A model with its adapter, and the samples of all rows.
struct Ready<K: Kind> {
    prepared: Prepared<K>,
    limit: Limit,
    /// Everything that gradients depend on besides the samples.
    key: RunKey,
    train: Samples<K>,
    query: Samples<K>,
    others: Vec<Samples<K>>,
}

/// Reads the rows of a run and loads its model.
fn ready<K: Kind>(
    run: &Run,
    files: &ModelFiles,
    amount: Option<Amount>,
    targets: &[PathBuf],
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Ready<K>, RunError> {
    let read = |set, path: &PathBuf| {
        unchanged(path, || Dataset::<K::Content>::read(set, path, &run.read).map_err(RunError::of_rows(set, path)))
    };
    let (train, query) = (read(Set::Train, &run.train)?, read(Set::Query, &run.query)?);
    let others = targets.iter().map(|path| read(Set::Query, path)).collect::<Result<Vec<_>, _>>()?;
    check_amount(amount, train.rows.len())?;
    let Loaded { prepared, limit } = load::<K>(run, files, &train, device, observe)?;
    let mut samples = |data| {
        let set = Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows)?;
        notify(&prepared.processor, &set, observe);
        Ok::<_, RunError>(set)
    };
    let (train, query) = (samples(train)?, samples(query)?);
    let others = others.into_iter().map(samples).collect::<Result<Vec<_>, _>>()?;
    let key = gradient_key::<K>(run, files, &prepared.model, limit, device);
    Ok(Ready { prepared, limit, key, train, query, others })
}

/// Everything that gradients depend on besides the samples.
pub(crate) fn gradient_key<K: Kind>(
    run: &Run,
    files: &ModelFiles,
    model: &K::Model,
    limit: Limit,
    device: &Device,
) -> RunKey {
    let mut key = RunKey::from([
        ("program", format!("{}/{GENERATION}", env!("CARGO_PKG_VERSION"))),
        ("model, adapter and tokenizer", files.fingerprint()),
        ("device", device_name(run, device)),
        ("batch size", run.batch_size.to_string()),
        ("maximum length", limit.tokens().to_string()),
    ]);
    key.0.extend(layers(run).map(|parts| ("layers".to_owned(), parts)));
    key.0.extend(K::settings(model).iter().map(|settings| ("loss".to_owned(), settings.to_string())));
    key
}

/// The key of gradients in a metric.
fn in_metric(mut key: RunKey, metric: Option<&Metric>) -> RunKey {
    key.0.extend(metric.map(|metric| ("metric".to_owned(), metric.used.xxh3_128.clone())));
    key
}

/// A model that is ready for a run, and the most tokens of a row.
pub(crate) struct Loaded<K: Kind> {
    pub(crate) prepared: Prepared<K>,
    pub(crate) limit: Limit,
}

/// Loads the model of a run with its adapter, and records the layers whose gradients are taken.
pub(crate) fn load<K: Kind>(
    run: &Run,
    files: &ModelFiles,
    rows: &Dataset<K::Content>,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<Loaded<K>, RunError> {
    let adapter = match (&files.adapter, run.layers) {
        (Some(_), _) => files.read_adapter()?,
        (None, RecordedParts::Connector | RecordedParts::LastLayer) => None,
        (None, RecordedParts::Adapters | RecordedParts::ConnectorAndAdapters) => {
            return Err(RunError::NoAdapter { model: run.model.clone() });
        }
    };
    let adapter = adapter.map(|mut adapter| {
        // Nothing is trained any more.
        adapter.config.lora.dropout = 0.0;
        adapter
    });
    let mut prepared = K::load(files, adapter.as_ref(), rows, device)?;
    if run.layers != RecordedParts::Adapters {
        prepared.model = record(prepared.model, run.layers)?;
        K::changed(&mut prepared, files)?;
    }
    files.check_unchanged()?;
    prepared.notify_of_tokenizer(observe);
    let limit = run.length.limit::<K>(&prepared.model, files.note().map(|note| note.max_length))?;
    Ok(Loaded { prepared, limit })
}

/// The name of the device.
pub(crate) fn device_name(run: &Run, device: &Device) -> String {
    if run.device_name.is_empty() { format!("{device:?}") } else { run.device_name.clone() }
}

/// The name of the device without its number.
pub(crate) fn device_kind(run: &Run, device: &Device) -> String {
    device_name(run, device).split(':').next().unwrap_or_default().to_owned()
}

/// The layers whose gradients are taken and how they are projected, where that is not the default.
pub(crate) fn layers(run: &Run) -> Option<String> {
    let LargeBlocks { above, rank, seed, adapters } = run.large_blocks;
    if run.layers == RecordedParts::Adapters && !adapters {
        return None;
    }
    let too = if adapters { ", adapters as well" } else { "" };
    Some(format!("{}, blocks above {above} at rank {rank}, seed {seed}{too}", run.layers.name()))
}

/// What the model predicts for samples of the set at a place; where the losses do not say it, the model runs again,
/// without gradients.
pub(crate) fn predictions<K: Kind>(
    run: &Run,
    model: &K::Model,
    (place, set): (usize, &Samples<K>),
    rows: Range<usize>,
    gradients: &GradientWriter,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<Prediction>, RunError> {
    let losses = gradients.losses().iter().copied().flatten();
    let of_losses = set.samples[rows.clone()].iter().zip(losses);
    let of_losses = of_losses.map(|(sample, loss)| K::prediction_of_loss(model, sample, loss));
    match of_losses.collect::<Option<Vec<_>>>() {
        Some(predictions) => Ok(predictions),
        None => {
            let share = several(run).map(|crew| (crew, place));
            predict(model, set, &rows.collect::<Vec<_>>(), run.batch_size, share, observe)
        }
    }
}
