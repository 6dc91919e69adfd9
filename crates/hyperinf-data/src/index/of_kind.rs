//! [`Index`]es of one kind of model.

use std::collections::HashSet;
use std::ops::Range;

use burn::tensor::Device;
use hyperinf_gradients::{Block, Projection, Target};
use hyperinf_models::{Limit, SampleModel};
use hyperinf_scoring::Set;
use hyperinf_store::{
    IndexError, IndexFolder, IndexWriter, KeyDifference, Leaf, Manifest, Resumption, RunKey, SourceFile, StoreError,
    StoredGuess, StoredRow,
};

use super::Index;
use super::key::key_of;
use super::settings::{Settings, anywhere};
use crate::RunError;
use crate::crew_work::{checked, common_key, serve, several};
use crate::dataset::{Content, Dataset};
use crate::event::{Event, Notice};
use crate::gradients::{Extractor, Part};
use crate::kind::Kind;
use crate::model_files::ModelFiles;
use crate::plan::PlannedDisk;
use crate::prediction::{Guess, Predicted, Prediction};
use crate::run::{Run, unchanged};
use crate::run_of_kind::{Loaded, device_name, gradient_key, load, predictions};
use crate::samples::{Samples, notify};
use crate::stage::Stage;

/// The leaves that are computed.
#[derive(Clone, Copy)]
pub(crate) enum Leaves<'a> {
    /// Those that the index lacks.
    Missing,
    /// These, although they were there.
    Again(&'a [usize]),
    /// Of those that the index lacks every `of`-th, beginning with `part`: their gradients only.
    Part { part: usize, of: usize },
}

/// Takes the gradients of batches for rank 0, until it has no more of them.
pub(crate) fn assist<K: Kind>(index: &Index, files: &ModelFiles, device: &Device) -> Result<(), RunError> {
    let run = index.run();
    let (set, model, limit) = ready::<K>(index, &run, files, device, &mut |_| {})?;
    let key = gradient_key::<K>(&run, files, &model, limit, device);
    serve(&[], &Extractor::<K> { run: &run, model: &model, key, metric: None }, &[&set], device)
}

/// The samples of an index's rows, its model, and the most tokens of a row.
fn ready<K: Kind>(
    index: &Index,
    run: &Run,
    files: &ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<(Samples<K>, K::Model, Limit), RunError> {
    let path = &index.train;
    let data = unchanged(path, || {
        Dataset::<K::Content>::read(Set::Train, path, &run.read).map_err(RunError::of_rows(Set::Train, path))
    })?;
    let Loaded { prepared, limit } = load::<K>(run, files, &data, device, observe)?;
    let set = Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows)?;
    notify(&prepared.processor, &set, observe);
    Ok((set, prepared.model, limit))
}

/// Computes the missing leaves of a file of rows, or some leaves again. Rows that were there, and that were computed.
pub(crate) fn index<K: Kind>(
    index: &Index,
    files: &ModelFiles,
    writer: &mut IndexWriter,
    leaves: Leaves<'_>,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<(usize, usize), RunError> {
    let run = index.run();
    let (set, model, limit) = ready::<K>(index, &run, files, device, observe)?;
    if let Some(crew) = several(&run) {
        crew.meet(&common_key(&gradient_key::<K>(&run, files, &model, limit, device), None, &[&set]))?;
    }
    let done = fill(index, &run, Rows { files, model: &model, set: &set, limit }, writer, leaves, device, observe)?;
    files.check_unchanged()?;
    Ok(done)
}

/// The index of a run's training rows, built or completed, with what the model predicts for them. A finished index is
/// not written, so that it may be read-only.
pub(crate) fn of_run<K: Kind>(
    index: &Index,
    run: &Run,
    rows: Rows<'_, K>,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<(IndexFolder, Vec<Prediction>), RunError> {
    let Rows { files, model, set, limit } = rows;
    let key = key_of::<K>(run, files, model, limit, device);
    let rows_of = |manifest: &Manifest| {
        manifest.rows() == set.samples.len()
            && manifest.leaves.iter().all(|leaf| set.fingerprint(leaf.first..leaf.first + leaf.rows) == leaf.samples)
    };
    let there = IndexFolder::open(&index.folder).ok();
    let there = there.filter(|found| found.manifest().key == key && found.is_finished());
    let found = match there.filter(|found| rows_of(found.manifest()) && found.gradients().is_ok()) {
        Some(found) => {
            let total = set.samples.len();
            let found_rows = Resumption { samples: total, ..Resumption::default() };
            observe(Event::Notice(Notice::Earlier { stage: Stage::TrainGradients, found: found_rows, total }));
            found
        }
        None => {
            let mut writer = IndexWriter::open(&index.folder)?;
            fill(index, run, Rows { files, model, set, limit }, &mut writer, Leaves::Missing, device, observe)?;
            let found = writer.finish()?;
            if !rows_of(found.manifest()) {
                let (before, now) = (found.manifest().rows().to_string(), set.samples.len().to_string());
                let differences = vec![KeyDifference { what: "the rows of all its files".into(), before, now }];
                return Err(IndexError::Differs { path: index.folder.clone(), differences }.into());
            }
            found
        }
    };
    let mut predictions = Vec::with_capacity(set.samples.len());
    for leaf in 0..found.manifest().leaves.len() {
        let rows = found.rows(leaf)?;
        let samples = &set.samples[predictions.len()..predictions.len() + rows.len()];
        for (sample, row) in samples.iter().zip(&rows) {
            predictions.push(predicted::<K>(model, sample, row));
        }
    }
    Ok((found, predictions))
}

fn predicted<K: Kind>(model: &K::Model, sample: &<K::Model as SampleModel>::Sample, row: &StoredRow) -> Prediction {
    let of_guess = |guess: StoredGuess| {
        let probability = f64::from_bits(guess.probability_bits);
        let target = Predicted::Class(Guess { label: guess.label, class: guess.class, probability });
        Prediction { loss: row.loss(), target }
    };
    let of_loss = || K::prediction_of_loss(model, sample, row.loss());
    row.guess.map(of_guess).or_else(of_loss).unwrap_or(Prediction { loss: row.loss(), target: Predicted::Tokens(0) })
}

/// Rows, and the model that they are the samples of.
pub(crate) struct Rows<'a, K: Kind> {
    pub(crate) files: &'a ModelFiles,
    pub(crate) model: &'a K::Model,
    pub(crate) set: &'a Samples<K>,
    pub(crate) limit: Limit,
}

/// [`index`] of samples.
fn fill<K: Kind>(
    index: &Index,
    run: &Run,
    rows: Rows<'_, K>,
    writer: &mut IndexWriter,
    leaves: Leaves<'_>,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<(usize, usize), RunError> {
    let Rows { files, model, set, limit } = rows;
    let key = key_of::<K>(run, files, model, limit, device);
    let extractor = Extractor::<K> { run, model, key: RunKey::default(), metric: None };
    let order = set.by_length();
    let (blocks, projection): (Vec<Block>, Option<Projection>) =
        extractor.blocks(&set.samples[order[0]], Target::Loss)?;
    let settings = Settings::new(index, limit.tokens(), device_name(run, device));
    let settings = serde_json::to_value(settings).map_err(|e| StoreError::output(&index.folder, e))?;
    let leaf_rows = index.batch_size.saturating_mul(index.leaf_batches);
    let mut manifest = Manifest::new(key, settings, &blocks, index.stored.name(), leaf_rows);
    writer.check(&manifest)?;
    let again = matches!(leaves, Leaves::Again(_));
    let before = writer.earlier().map_or(0, |earlier| earlier.sources.len());
    let source = extend(&mut manifest, writer.earlier(), index, set, again)?;
    if before > 0 && source >= before {
        check_ids(&IndexFolder::open(&index.folder)?, set)?;
    }
    let todo = match leaves {
        Leaves::Again(leaves) => leaves.to_vec(),
        Leaves::Missing | Leaves::Part { .. } => {
            let begun = writer.begin(manifest.clone())?;
            if !begun.lost.is_empty() {
                let (path, leaves) = (index.folder.clone(), begun.lost);
                observe(Event::Notice(Notice::LostLeaves { path, leaves }));
            }
            let mine = |leaf: usize| match leaves {
                Leaves::Part { part, of } => leaf % of == part,
                Leaves::Missing | Leaves::Again(_) => true,
            };
            let wanted = |leaf: &usize| manifest.leaves[*leaf].source == source && mine(*leaf);
            begun.missing.into_iter().filter(wanted).collect::<Vec<usize>>()
        }
    };
    let before = &manifest.sources[..source];
    let (first, offset): (usize, usize) = (before.iter().map(|s| s.rows).sum(), before.iter().map(|s| s.total).sum());
    let all = set.samples.len();
    let computed: usize = todo.iter().map(|&leaf| manifest.leaves[leaf].rows).sum();
    // Of a part the other leaves are neither there nor its own.
    let total = if matches!(leaves, Leaves::Part { .. }) { computed } else { all };
    let mut done = total - computed;
    if done > 0 && !again {
        let found = Resumption { samples: done, ..Resumption::default() };
        observe(Event::Notice(Notice::Earlier { stage: Stage::TrainGradients, found, total }));
    }
    if computed > 0 {
        let parameters: usize = blocks.iter().map(Block::parameters).sum();
        let bytes = (computed * parameters * index.stored.bytes()) as u64;
        extractor.warn_of_room(set, &projection, PlannedDisk::new(&index.folder, bytes), observe)?;
    }
    for leaf in todo {
        let Leaf { first: begin, rows: count, .. } = manifest.leaves[leaf];
        let rows = begin - first..begin - first + count;
        let folder = &index.folder;
        let opened = checked(run, |check| writer.gradients_checked(leaf, check))?;
        let mut gradients = opened.map_err(|e| StoreError::output(folder, e))?;
        let part = Part {
            place: 0,
            rows: rows.clone(),
            before: done,
            total,
            target: Target::Loss,
            projection: &projection,
            folder,
        };
        extractor.fill(&mut gradients, set, part, observe)?;
        done += count;
        if matches!(leaves, Leaves::Part { .. }) {
            continue;
        }
        let found = predictions::<K>(run, model, (0, set), rows.clone(), &gradients, &mut |_| {})?;
        let stored: Vec<StoredRow> = rows.zip(&found).map(|(row, found)| stored(set, row, offset, found)).collect();
        writer.finish_leaf(leaf, gradients, &stored)?;
    }
    Ok((total - computed, computed))
}

/// Fails if a row that is added has the id of one that is there.
fn check_ids<K: Kind>(index: &IndexFolder, set: &Samples<K>) -> Result<(), RunError> {
    let added: HashSet<&str> = set.data.rows.iter().filter_map(|row| row.id.as_deref()).collect();
    if added.is_empty() {
        return Ok(());
    }
    let missing = index.missing();
    for leaf in (0..index.manifest().leaves.len()).filter(|leaf| !missing.contains(leaf)) {
        let found = index.rows(leaf)?.into_iter().filter_map(|row| row.id).find(|id| added.contains(id.as_str()));
        if let Some(id) = found {
            return Err(IndexError::DuplicateId { path: index.path().to_owned(), id }.into());
        }
    }
    Ok(())
}

fn stored<K: Kind>(set: &Samples<K>, sample: usize, offset: usize, prediction: &Prediction) -> StoredRow {
    let row = &set.data.rows[sample];
    StoredRow {
        row: offset + row.row,
        id: row.id.clone(),
        text: row.content.text(),
        label: row.content.label().map(str::to_owned),
        loss_bits: prediction.loss.to_bits(),
        guess: prediction.guess().map(|guess| StoredGuess {
            label: guess.label,
            class: guess.class,
            probability_bits: guess.probability.to_bits(),
        }),
    }
}

/// Adds the files and leaves of an earlier manifest, and what the rows have beyond them. The place of the rows' file.
fn extend<K: Kind>(
    manifest: &mut Manifest,
    earlier: Option<&Manifest>,
    index: &Index,
    set: &Samples<K>,
    again: bool,
) -> Result<usize, RunError> {
    let data = &set.data;
    let this = SourceFile {
        path: anywhere(&data.path).display().to_string(),
        bytes: data.bytes,
        xxh3_128: data.xxh3_128.clone(),
        total: data.total,
        rows: set.samples.len(),
    };
    if let Some(earlier) = earlier {
        (manifest.sources, manifest.leaves) = (earlier.sources.clone(), earlier.leaves.clone());
    }
    let folder = || index.folder.clone();
    let differs = |what: String, before: String, now: String| {
        let differences = vec![KeyDifference { what, before, now }];
        RunError::from(IndexError::Differs { path: folder(), differences })
    };
    let known = manifest.sources.iter().position(|s| s.xxh3_128 == this.xxh3_128 || s.path == this.path);
    let source = match known {
        Some(source) => source,
        None if manifest.sources.is_empty() || index.append => {
            manifest.sources.push(SourceFile { rows: 0, total: 0, ..this.clone() });
            manifest.sources.len() - 1
        }
        None => {
            let before = manifest.sources.iter().map(|s| s.path.as_str()).collect::<Vec<_>>().join(", ");
            return Err(differs("the file of the rows".into(), before, this.path));
        }
    };
    let first: usize = manifest.sources[..source].iter().map(|s| s.rows).sum();
    let mut seen = 0;
    for (number, leaf) in manifest.leaves.iter().enumerate().filter(|(_, leaf)| leaf.source == source) {
        let rows: Range<usize> = leaf.first - first..leaf.first - first + leaf.rows;
        seen = rows.end;
        if rows.end > set.samples.len() || set.fingerprint(rows.clone()) != leaf.samples {
            return Err(IndexError::Rows { path: folder(), leaf: number, first: leaf.first, rows: leaf.rows }.into());
        }
    }
    if again || seen == set.samples.len() {
        return Ok(source);
    }
    if source + 1 < manifest.sources.len() {
        let (before, now) = (seen.to_string(), set.samples.len().to_string());
        return Err(differs(format!("rows of `{}`, to which another file was appended", this.path), before, now));
    }
    let mut at = seen;
    while at < set.samples.len() {
        let end = set.samples.len().min(at.saturating_add(manifest.leaf_rows));
        let samples = set.fingerprint(at..end);
        manifest.leaves.push(Leaf { source, first: first + at, rows: end - at, samples });
        at = end;
    }
    manifest.sources[source] = this;
    Ok(source)
}
