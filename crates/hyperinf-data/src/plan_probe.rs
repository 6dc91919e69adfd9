//! The measurement of a plan: batches of different lengths and sizes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use hyperinf_store::{StoreError, available, peak_resident, reset_peak, resident};
use tempfile::TempDir;

use crate::RunError;
use crate::plan::{PlannedBatch, PlannedStep};
use crate::room::Growth;

/// Seconds after which no other batch is measured.
pub(crate) const PATIENCE: f64 = 1.5;
/// The share of free memory that batches may take.
const SHARE: f64 = 0.8;
/// The largest batch that is measured.
pub(crate) const LARGEST: usize = 256;
/// A batch size must be faster by this share to be taken instead of a smaller one.
pub(crate) const GAIN: f64 = 0.03;

/// Computes a batch of samples and returns its seconds.
pub(crate) type Batch<'a> = dyn FnMut(&[usize]) -> Result<f64, RunError> + 'a;

/// What batches take.
pub(crate) struct Measured {
    pub(crate) curve: Curve,
    pub(crate) batch: PlannedBatch,
    /// The most memory with the longest batch, measured if that fits; `None` where it is not counted.
    pub(crate) memory: Option<f64>,
    /// The samples, the shortest first.
    pub(crate) order: Vec<usize>,
}

/// Measures batches of samples of these lengths, `rows` of which are a batch of the run.
pub(crate) fn measure(
    lengths: &[usize],
    rows: usize,
    device: &Device,
    batch: &mut Batch<'_>,
) -> Result<Measured, RunError> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&sample| lengths[sample]);
    let rows = rows.min(order.len());
    let of_loading = peak_resident();
    let growth = Growth::of(device, rows, &mut |rows| batch(&order[order.len() - rows..]).map(drop))?;
    let fitting = growth.as_ref().map_or(rows, |growth| growth.fitting(rows));
    let before = resident();
    reset_peak();
    let curve = curve(lengths, &order, fitting, batch)?;
    let most = peak_resident();
    let planned = sizes(lengths, &order, fitting, &curve, before.zip(most), batch)?;
    let most = if fitting < rows { growth.map(|growth| growth.needed(rows)) } else { most };
    let memory = most.into_iter().chain(of_loading).reduce(f64::max);
    Ok(Measured { curve, batch: PlannedBatch { rows, ..planned }, memory, order })
}

/// Seconds of a batch by the length of its longest row.
pub(crate) struct Curve {
    /// Lengths with seconds per row, by length.
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// Seconds of a batch.
    pub(crate) fn seconds(&self, length: usize, rows: usize) -> f64 {
        let length = length as f64;
        let after = self.points.partition_point(|point| point.0 < length);
        let before = after.checked_sub(1).and_then(|before| self.points.get(before));
        let per_row = match (before, self.points.get(after)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (length - a.0) / (b.0 - a.0),
            (None, Some(only)) | (Some(only), None) => only.1 * length.max(1.0) / only.0.max(1.0),
            (None, None) => 0.0,
        };
        per_row * rows as f64
    }

    /// Seconds of batches by their longest rows and their sizes, and the number of batches.
    pub(crate) fn total(&self, batches: impl Iterator<Item = (usize, usize)>) -> (f64, usize) {
        batches.fold((0.0, 0), |(sum, count), (length, rows)| (sum + self.seconds(length, rows), count + 1))
    }
}

/// The batches of a pass over samples of these lengths, sorted by length: longest row and size of each.
pub(crate) fn sorted(lengths: &[usize], rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable_by_key(|&length| std::cmp::Reverse(length));
    let batches: Vec<(usize, usize)> = lengths.chunks(rows.max(1)).map(|batch| (batch[0], batch.len())).collect();
    batches.into_iter()
}

/// Seconds per row of batches of different lengths: the longest first, which also shows the memory.
fn curve(lengths: &[usize], order: &[usize], rows: usize, batch: &mut Batch<'_>) -> Result<Curve, RunError> {
    let mut order = order.to_vec();
    order.reverse();
    let batches: Vec<&[usize]> = order.chunks(rows).collect();
    let last = batches.len() - 1;
    // A smaller last batch says little of the others.
    let last = if last > 0 && batches[last].len() < batches[0].len() { last - 1 } else { last };
    let began = Instant::now();
    let places = [0, last / 2, last, 0, last / 4, last * 3 / 4, last / 2, last, 0];
    let mut measured = Vec::new();
    for (turn, place) in places.into_iter().enumerate() {
        // Two lengths at least, whatever they take.
        if turn > 1 && began.elapsed().as_secs_f64() > PATIENCE {
            break;
        }
        let rows = batches[place];
        let seconds = batch(rows)? / rows.len() as f64;
        measured.push((lengths[rows[0]], seconds));
    }
    // The first one is slower, where anything is prepared, but better than none.
    let skip = usize::from(measured.len() > 3);
    let mut found: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (length, seconds) in measured.into_iter().skip(skip) {
        found.entry(length).or_default().push(seconds);
    }
    let mean = |all: Vec<f64>| all.iter().sum::<f64>() / all.len() as f64;
    Ok(Curve { points: found.into_iter().map(|(length, all)| (length as f64, mean(all))).collect() })
}

/// The speed of batches of several sizes, and how many of the longest rows fit. `memory` is what was held before and
/// at most during a batch of these.
fn sizes(
    lengths: &[usize],
    order: &[usize],
    rows: usize,
    curve: &Curve,
    memory: Option<(f64, f64)>,
    batch: &mut Batch<'_>,
) -> Result<PlannedBatch, RunError> {
    let all = order.len();
    let largest = memory.zip(available()).map(|((before, most), free)| {
        let each = ((most - before) / rows as f64).max(1.0);
        ((SHARE * (free + most - before) / each) as usize).clamp(1, all)
    });
    let fits = largest.unwrap_or(LARGEST).min(LARGEST).min(all);
    let began = Instant::now();
    let own = (rows, 1.0 / curve.seconds(lengths[order[all / 2]], 1).max(1e-9));
    let mut speeds: Vec<(usize, f64)> = Vec::new();
    let mut size = 4.min(fits);
    loop {
        let first = (all - size) / 2;
        let samples = &order[first..first + size];
        let mut seconds = batch(samples)?;
        if seconds < PATIENCE / 30.0 {
            seconds = seconds.min(batch(samples)?);
        }
        speeds.push((size, size as f64 / seconds));
        let next = (2 * size).min(fits);
        let expected = 2.0 * seconds;
        let slower = speeds.len() > 2 && speeds[speeds.len() - 1].1 < speeds[speeds.len() - 3].1 * (1.0 + GAIN);
        if next == size || slower || began.elapsed().as_secs_f64() + expected > PATIENCE {
            break;
        }
        size = next;
    }
    if speeds.iter().all(|speed| speed.0 != rows) {
        speeds.push(own);
        speeds.sort_by_key(|speed| speed.0);
    }
    let best = speeds.iter().map(|speed| speed.1).fold(0.0, f64::max);
    // The smallest that is as fast: a larger one takes memory.
    let fastest = speeds.iter().find(|speed| speed.1 >= best * (1.0 - GAIN)).map_or(rows, |speed| speed.0);
    Ok(PlannedBatch { rows, largest, fastest, speeds })
}

pub(crate) fn step(name: &'static str, seconds: f64, work: String) -> PlannedStep {
    PlannedStep { name, seconds, work }
}

/// A folder on the disk of the results, removed at the end.
pub(crate) fn scratch(out: &Path) -> Result<TempDir, RunError> {
    let there = out.ancestors().find(|folder| folder.is_dir());
    let there = there.unwrap_or(Path::new("."));
    let new = || tempfile::Builder::new().prefix(".hyperinf-plan-").tempdir_in(there);
    new().or_else(|_| tempfile::tempdir()).map_err(|source| StoreError::output(there, source).into())
}
