//! [`Index::plan`](crate::Index::plan): the measurement.

use std::time::Instant;

use burn::tensor::Device;
use hyperinf_gradients::Block;
use hyperinf_scoring::Set;
use hyperinf_store::{RunKey, available, resident};

use crate::RunError;
use crate::dataset::Dataset;
use crate::error::size;
use crate::event::Event;
use crate::gradients::Extractor;
use crate::index::Index;
use crate::kind::{Kind, Prepared};
use crate::model_files::ModelFiles;
use crate::plan::{PlannedDisk, PlannedMemory, RunPlan};
use crate::plan_gradients::Probe;
use crate::plan_of_kind::rows;
use crate::plan_probe::{Measured, sorted, step};
use crate::run::unchanged;
use crate::run_of_kind::{Loaded, load};
use crate::samples::{Samples, notify};

/// Bytes of a row's entry in an index besides its text: its number, loss and prediction.
const ENTRY: usize = 160;

pub(crate) fn plan<K: Kind>(
    index: &Index,
    files: &ModelFiles,
    device: &Device,
    observe: &mut dyn FnMut(Event),
) -> Result<RunPlan, RunError> {
    let began = Instant::now();
    let (run, path) = (index.run(), &index.train);
    let data = unchanged(path, || {
        Dataset::<K::Content>::read(Set::Train, path, &run.read).map_err(RunError::of_rows(Set::Train, path))
    })?;
    let Loaded { prepared, limit } = load::<K>(&run, files, &data, device, observe)?;
    let set = Samples::<K>::new(&prepared, data, limit, run.read.skip_bad_rows)?;
    notify(&prepared.processor, &set, observe);
    let Prepared { model, .. } = prepared;
    let mut steps = vec![step("loading", began.elapsed().as_secs_f64(), String::new())];

    let began = Instant::now();
    let _listening = run.stop.listen();
    let extractor = Extractor::<K> { run: &run, model: &model, key: RunKey::default(), metric: None };
    let leaf_rows = index.batch_size.saturating_mul(index.leaf_batches).max(1);
    let mut probe = Probe::new(&extractor, &set, leaf_rows)?;
    let Measured { curve, batch, memory, order } = probe.measure()?;
    let lengths = set.lengths();
    // Batches are sorted within a leaf.
    let (seconds, batches) = curve.total(lengths.chunks(leaf_rows).flat_map(|leaf| sorted(leaf, index.batch_size)));
    let leaves = lengths.len().div_ceil(leaf_rows);
    steps.push(step("training gradients", seconds, format!("{batches} batches in {leaves} leaves")));
    if let Some(share) = probe.prediction(&order, &curve)? {
        steps.push(step("predictions", share * seconds, format!("{} rows", lengths.len())));
    }
    let parameters: usize = probe.blocks.iter().map(Block::parameters).sum();
    let written = (lengths.len() * parameters * index.stored.bytes()) as f64;
    steps.push(step("gradients to disk", written * probe.sync_rate()?, size(written as u64)));
    let texts: usize = set.data.rows.iter().map(|row| crate::Content::text(&row.content).len() + ENTRY).sum();
    let needed = lengths.len() as u64 * (parameters * index.stored.bytes()) as u64 + texts as u64;
    let held = resident().unwrap_or(0.0);
    Ok(RunPlan {
        command: "index",
        train: rows(&set),
        query: Vec::new(),
        blocks: probe.blocks.len(),
        parameters,
        batch,
        steps,
        memory: PlannedMemory { batches: memory, scores: None, available: available().map(|free| free + held) },
        disk: PlannedDisk::new(&index.folder, needed),
        refusal: None,
        measured: began.elapsed().as_secs_f64(),
    })
}
