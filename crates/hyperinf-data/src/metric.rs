//! Gradients in the metric of AdamW's second moments.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hyperinf_gradients::Gradients;
use hyperinf_linalg::host;
use hyperinf_models::{AdamMetric, ModelError, Recording, SampleModel};
use hyperinf_scoring::Method;
use serde::Serialize;
use twox_hash::XxHash3_128;

use crate::kind::Kind;
use crate::model_files::ModelFiles;
use crate::recorded::same_adapter;
use crate::run::Run;
use crate::{Choice, RunError};

/// The metric that gradients were taken in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricUsed {
    /// The recording, or the optimizer's state.
    pub path: PathBuf,
    /// The steps that its second moments hold.
    pub steps: usize,
    /// A hash of its numbers in the blocks.
    pub xxh3_128: String,
}

/// What each entry of a gradient is multiplied with: `(√v̂ + ε)^(−1/2)`.
#[derive(Clone)]
pub(crate) struct Metric {
    pub(crate) used: MetricUsed,
    /// One row of each block.
    pub(crate) factors: Gradients,
    by_block: BTreeMap<String, Vec<f32>>,
}

impl Metric {
    /// That of a run, for the blocks of a model with the run's adapter.
    pub(crate) fn of_run<K: Kind>(
        run: &Run,
        files: &ModelFiles,
        model: &K::Model,
        sample: Option<&<K::Model as SampleModel>::Sample>,
    ) -> Result<Option<Self>, RunError> {
        let (Some(path), Some(sample)) = (&run.metric, sample) else { return Ok(None) };
        let adapter = files.read_adapter()?.ok_or_else(|| RunError::NoAdapter { model: run.model.clone() })?;
        let path = if path.is_dir() { path.join(Recording::FILE) } else { path.clone() };
        let metric = match Recording::is_one(&path) {
            true => {
                let recording = Recording::open(&path)?;
                let ended = recording.apply(model.clone())?;
                same_adapter::<K>(&ended, &adapter.config.lora, files, &path)?;
                recording.metric_at(recording.states().len() - 1)?
            }
            false => AdamMetric::of_optimizer(&path, &adapter, model)?,
        };
        let found = metric.in_blocks(model, &model.collate(&[sample])?)?;
        let roots = found.blocks.into_iter().map(|block| block.sqrt().recip()).collect();
        let factors = Gradients::new(found.layout, roots)?;
        let mut by_block = BTreeMap::new();
        for (block, row) in factors.layout.iter().zip(&factors.blocks) {
            by_block.insert(block.name.clone(), host(row.clone())?.into_iter().map(|value| value as f32).collect());
        }
        let used = MetricUsed { path, steps: metric.steps, xxh3_128: fingerprint(&by_block) };
        Ok(Some(Self { used, factors, by_block }))
    }

    /// Multiplies the gradients of samples in a block, one after the other.
    pub(crate) fn scale(&self, block: &str, rows: &mut [f32]) -> Result<(), RunError> {
        let missing = || ModelError::NoMetric { block: block.to_owned() };
        let factors = self.by_block.get(block).ok_or_else(missing)?;
        for row in rows.chunks_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
        Ok(())
    }
}

/// A hash of what gradients are multiplied with.
fn fingerprint(by_block: &BTreeMap<String, Vec<f32>>) -> String {
    let mut hash = XxHash3_128::new();
    for (name, values) in by_block {
        hash.write(name.as_bytes());
        values.iter().for_each(|value| hash.write(&value.to_le_bytes()));
    }
    format!("{:032x}", hash.finish_128())
}

/// Refuses choices that gradients in a metric do not have.
pub(crate) fn check(run: &Run) -> Result<(), RunError> {
    if run.metric.is_none() {
        return Ok(());
    }
    let refused = |second, reason| Err(RunError::Conflict { first: Choice::Metric, second, reason });
    if matches!(&run.options.method, Method::Inverse { storage, .. } if storage.needs_captures()) {
        return refused(
            Choice::Method,
            "a gradient in a metric is no product of a layer's inputs and output gradients",
        );
    }
    if run.index.is_some() {
        return refused(Choice::Index, "an index holds gradients of the parameters as they are");
    }
    if run.refine.is_some() {
        return refused(Choice::Refine, "the matrix is that of the parameters as they are");
    }
    if run.positions.is_some() {
        return refused(Choice::Positions, "tokens are scored by gradients of the parameters as they are");
    }
    Ok(())
}

/// Refuses what is not known before the model is: blocks that are projected as they are taken.
pub(crate) fn check_projects(run: &Run, projects: bool) -> Result<(), RunError> {
    match run.metric.is_some() && projects {
        true => {
            let reason = "a metric has a number for each parameter, and these blocks are projected";
            Err(RunError::Conflict { first: Choice::Metric, second: Choice::LargeBlocks, reason })
        }
        false => Ok(()),
    }
}
