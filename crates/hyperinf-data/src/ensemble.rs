//! Scores that are the mean over adapters of several trainings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::Device;
use serde::Serialize;

use crate::baseline::Ranked;
use crate::crew_work::several;
use crate::event::Event;
use crate::influence::Influence;
use crate::labels::Labels;
use crate::model_files::ModelFiles;
use crate::run::Run;
use crate::{Choice, RunError};

/// A further adapter whose scores are in the mean.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Member {
    /// Its folder.
    pub path: PathBuf,
    /// The hashes of its files.
    pub xxh3_128: BTreeMap<String, String>,
}

impl Member {
    fn of(files: &ModelFiles) -> Self {
        Self { path: files.adapter.clone().unwrap_or_default(), xxh3_128: files.adapter_hashes.clone() }
    }
}

/// Refuses choices that belong to one adapter.
pub(crate) fn check(run: &Run) -> Result<(), RunError> {
    if run.ensemble.is_empty() {
        return Ok(());
    }
    let refused = |second, reason| Err(RunError::Conflict { first: Choice::Ensemble, second, reason });
    if run.adapter.is_none() {
        return Err(RunError::NoAdapter { model: run.model.clone() });
    }
    if run.index.is_some() {
        return refused(Choice::Index, "an index holds the gradients of one adapter");
    }
    if run.metric.is_some() {
        return refused(Choice::Metric, "the moments are those of one training");
    }
    if run.refine.is_some() {
        return refused(Choice::Refine, "its residuals are those of one adapter");
    }
    if run.seeds.is_some() {
        return refused(Choice::ErrorBars, "they are over the draws of one adapter");
    }
    if run.positions.is_some() {
        return refused(Choice::Positions, "tokens are scored by one adapter");
    }
    if several(run).is_some() {
        return refused(Choice::Ranks, "adapters are scored one after the other");
    }
    Ok(())
}

/// Refuses an ensemble where the first adapter decides more than scores.
pub(crate) fn refuse(run: &Run, second: Choice) -> Result<(), RunError> {
    let reason = "it works with the gradients and predictions of one adapter";
    match run.ensemble.is_empty() {
        true => Ok(()),
        false => Err(RunError::Conflict { first: Choice::Ensemble, second, reason }),
    }
}

impl Run {
    /// The runs of the further adapters.
    fn members(&self) -> impl Iterator<Item = Self> {
        self.ensemble.iter().enumerate().map(|(place, adapter)| Self {
            adapter: Some(adapter.clone()),
            ensemble: Vec::new(),
            out: self.out.join(format!("ensemble-{}", place + 2)),
            ..self.clone()
        })
    }

    /// Makes scores the mean over all adapters; of each block the worst report is kept.
    pub(crate) fn average(
        &self,
        found: &mut Influence,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RunError> {
        let mut members = Vec::with_capacity(self.ensemble.len());
        for run in self.members() {
            let other = run.influence(device, None, &[], observe)?;
            same_labels(found.labels.as_ref(), other.labels.as_ref(), &run)?;
            add(&mut found.attribution.scores.rows, &other.attribution.scores.rows);
            found.attribution.keep_worst(other.attribution.blocks.clone());
            members.push(Member::of(&other.files));
            other.discard_gradients()?;
        }
        divide(&mut found.attribution.scores.rows, members.len() + 1);
        found.ensemble = members;
        Ok(())
    }

    /// The same for scores without stored gradients, `again` being how they are computed.
    pub(crate) fn averaged(
        &self,
        mut found: Ranked,
        mut again: impl FnMut(&Self) -> Result<Ranked, RunError>,
    ) -> Result<Ranked, RunError> {
        let mut members = Vec::with_capacity(self.ensemble.len());
        for run in self.members() {
            let other = again(&run)?;
            same_labels(found.labels.as_ref(), other.labels.as_ref(), &run)?;
            add(&mut found.scores.rows, &other.scores.rows);
            members.push(Member::of(&other.files));
        }
        divide(&mut found.scores.rows, members.len() + 1);
        found.ensemble = members;
        Ok(found)
    }
}

/// Fails unless adapters tell the same classes apart.
fn same_labels(first: Option<&Labels>, other: Option<&Labels>, run: &Run) -> Result<(), RunError> {
    let names = |labels: Option<&Labels>| {
        let mut names = labels.map(|labels| labels.names.clone()).unwrap_or_default();
        names.sort_unstable();
        names
    };
    let (expected, found) = (names(first), names(other));
    match expected == found {
        true => Ok(()),
        false => Err(RunError::OtherLabels { adapter: run.adapter.clone().unwrap_or_default(), expected, found }),
    }
}

fn add(sum: &mut [Vec<f64>], more: &[Vec<f64>]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
}

fn divide(sum: &mut [Vec<f64>], by: usize) {
    sum.iter_mut().flatten().for_each(|value| *value /= by as f64);
}
