//! The measurement of a plan's gradients: batches through the code of a run, into files that are removed again.

use std::time::{Duration, Instant};

use hyperinf_gradients::{Block, Capture, Projection, Target, capture};
use hyperinf_linalg::host;
use hyperinf_models::SampleModel;
use hyperinf_store::{GradientWriter, RunKey, StoreError};
use tempfile::TempDir;

use crate::RunError;
use crate::gradients::{Extractor, numbers};
use crate::kind::Kind;
use crate::plan_probe::{Curve, LARGEST, Measured, measure, scratch};
use crate::samples::Samples;
use crate::stage::Stage;

/// The most bytes of the file that batches are written into, most of which are never written.
const BYTES: usize = 4 << 30;
/// How long batches are written before the probe waits for the disk: less than the writer itself waits.
const SYNC: Duration = Duration::from_millis(500);
/// The golden ratio's part by which each batch's places are moved: all batches go to new places.
const SHIFT: f64 = 0.618_033_988_749_895;

/// Gradients of some rows, into files that are removed again.
pub(crate) struct Probe<'a, K: Kind> {
    extractor: &'a Extractor<'a, K>,
    set: &'a Samples<K>,
    projection: Option<Projection>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) folder: TempDir,
    writer: GradientWriter,
    /// The rows of the file.
    places: usize,
    batches: usize,
    disk: Disk,
    /// The gradients of a batch: for each block `[rows, parameters]`.
    pub(crate) kept: Vec<Vec<f32>>,
}

/// What the disk took.
struct Disk {
    written: usize,
    waited: Duration,
    synced: Instant,
}

impl<'a, K: Kind> Probe<'a, K> {
    /// A probe of a run that writes files of at most so many rows.
    pub(crate) fn new(extractor: &'a Extractor<'a, K>, set: &'a Samples<K>, rows: usize) -> Result<Self, RunError> {
        let order = set.by_length();
        let (blocks, projection) = extractor.blocks(&set.samples[order[0]], Target::Loss)?;
        let folder = scratch(&extractor.run.out)?;
        let row: usize = blocks.iter().map(|block| block.parameters() * size_of::<f32>()).sum();
        // Batches go to new places that are far from each other, as in a run: a file system writes again what is there,
        // and what lies together, in a fraction of the time.
        let places = (BYTES / row.max(1)).max(extractor.run.batch_size.max(LARGEST)).min(rows).min(set.samples.len());
        let writer = GradientWriter::open(folder.path(), "batches", &RunKey::default(), places, &blocks)
            .map_err(|source| StoreError::output(folder.path(), source))?;
        let disk = Disk { written: 0, waited: Duration::ZERO, synced: Instant::now() };
        Ok(Self { extractor, set, projection, blocks, folder, writer, places, batches: 0, disk, kept: Vec::new() })
    }

    /// Measures batches of the run.
    pub(crate) fn measure(&mut self) -> Result<Measured, RunError> {
        let (lengths, rows) = (self.set.lengths(), self.extractor.run.batch_size);
        let device = self.extractor.model.device();
        measure(&lengths, rows, &device, &mut |batch| self.batch(batch))
    }

    /// Takes the gradients of a batch as a run does. Returns its seconds.
    fn batch(&mut self, batch: &[usize]) -> Result<f64, RunError> {
        let Extractor { run, model, .. } = self.extractor;
        if run.stop.is_requested() {
            let stage = Stage::TrainGradients;
            return Err(RunError::Stopped { stage, done: 0, total: self.set.samples.len(), kept: None });
        }
        if self.disk.synced.elapsed() >= SYNC {
            self.sync()?;
        }
        let began = Instant::now();
        let samples: Vec<_> = batch.iter().map(|&sample| &self.set.samples[sample]).collect();
        let captures = capture(*model, &model.collate(&samples)?, Target::Loss)?;
        let losses = host(captures.values)?;
        let wanted = captures.blocks.into_iter().filter(|captured| self.extractor.wanted(&captured.block)).collect();
        let wanted: Vec<Capture> = match &self.projection {
            Some(projection) => projection.captures(wanted)?,
            None => wanted,
        };
        let values = wanted.iter().map(numbers).collect::<Result<Vec<_>, _>>()?;
        let moved = (self.batches as f64 * SHIFT * self.places as f64) as usize;
        let places: Vec<usize> = batch.iter().map(|&sample| (sample + moved) % self.places).collect();
        self.batches += 1;
        self.disk.written += values.iter().map(|values| size_of_val(&values[..])).sum::<usize>();
        self.writer
            .write(&places, &losses, &values)
            .map_err(|source| StoreError::output(self.folder.path(), source))?;
        let seconds = began.elapsed().as_secs_f64();
        let bad = values.iter().zip(&wanted).find_map(|(values, captured)| {
            let at = values.iter().position(|value| !value.is_finite())?;
            Some((at / captured.block.parameters(), format!("gradient in block `{}`", captured.block.name), values[at]))
        });
        if let Some((place, what, value)) = bad {
            let (data, row) = (&self.set.data, self.set.data.rows[batch[place]].row);
            return Err(RunError::NotFinite { set: data.set, path: data.path.clone(), row, what, value: value.into() });
        }
        self.kept = values;
        Ok(seconds)
    }

    /// Waits for the disk, as a run does once a second.
    fn sync(&mut self) -> Result<(), RunError> {
        let began = Instant::now();
        self.writer.sync().map_err(|source| StoreError::output(self.folder.path(), source))?;
        self.disk.waited += began.elapsed();
        self.disk.synced = Instant::now();
        Ok(())
    }

    /// Seconds per byte that a run waits until what it wrote is on the disk, after batches were measured.
    pub(crate) fn sync_rate(&mut self) -> Result<f64, RunError> {
        self.sync()?;
        Ok(self.disk.waited.as_secs_f64() / self.disk.written.max(1) as f64)
    }

    /// Seconds per row of predictions in a pass of their own, as a share of those of gradients; `None` where the losses
    /// say them.
    pub(crate) fn prediction(&self, order: &[usize], curve: &Curve) -> Result<Option<f64>, RunError> {
        let model = self.extractor.model;
        let batch = middle(order, self.extractor.run.batch_size);
        let samples: Vec<_> = batch.iter().map(|&sample| &self.set.samples[sample]).collect();
        if samples.iter().all(|sample| K::prediction_of_loss(model, sample, 1.0).is_some()) {
            return Ok(None);
        }
        Ok(Some(predictions::<K>(model, self.set, batch)? / curve.seconds(self.middle(order), 1)))
    }

    /// The length of the middle sample.
    pub(crate) fn middle(&self, order: &[usize]) -> usize {
        K::Model::length(&self.set.samples[order[order.len() / 2]])
    }
}

/// Samples of middle length.
pub(crate) fn middle(order: &[usize], rows: usize) -> &[usize] {
    let rows = rows.min(order.len());
    let first = (order.len() - rows) / 2;
    &order[first..first + rows]
}

/// Seconds per row of predictions.
pub(crate) fn predictions<K: Kind>(model: &K::Model, set: &Samples<K>, batch: &[usize]) -> Result<f64, RunError> {
    let samples: Vec<_> = batch.iter().map(|&sample| &set.samples[sample]).collect();
    let began = Instant::now();
    K::predict(model, &samples)?;
    Ok(began.elapsed().as_secs_f64() / samples.len() as f64)
}
