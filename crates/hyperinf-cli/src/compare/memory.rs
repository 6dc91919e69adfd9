//! Memory: needed by a method, free, and used.

use std::fs;

use hyperinf::gradients::Block;
use hyperinf::scoring::Method;
use hyperinf::store::{GradientPair, Precision};

use crate::score::Settings;

/// One GiB and one MiB in bytes.
const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;
/// The share of the free memory that a method may take.
const SHARE: f64 = 0.8;
/// Bytes of gradients that are read at once, where not all samples are held.
const BATCH: f64 = (256_u64 << 20) as f64;

/// The memory that methods may take, in GiB; `None` where the system does not report free memory.
pub(super) fn limit(asked: Option<f64>) -> Option<f64> {
    asked.or_else(|| Some(field("/proc/meminfo", "MemAvailable")? / GIB * SHARE))
}

/// The approximate memory that a method needs for the largest block, or for all blocks merged, in GiB: gradients of
/// the training samples (two blocks, since one is read while the other is scored) and of the queries, the curvature,
/// and its copies in f64.
/// Projected gradients are read in batches of whole ones.
pub(super) fn needed(settings: &Settings, pair: &GradientPair) -> f64 {
    let mut blocks = pair.scored_blocks();
    if settings.options.merged {
        blocks = vec![Block::new("merged", 1, blocks.iter().map(Block::parameters).sum())];
    }
    let width = if pair.precision(&settings.device) == Precision::Double { 8 } else { 4 };
    let (n, q) = (pair.train.samples(), pair.query.file.samples());
    let of_block = |block: &Block| {
        let gradients = |samples: usize| (samples * block.parameters() * width) as f64;
        let held = 2.0 * gradients(n);
        let streamed = held.min(2.0 * BATCH);
        let training = match &settings.options.method {
            Method::Inverse { storage, .. } if storage.holds_samples(block, n) => {
                held + storage.memory(block, n, width)
            }
            Method::Inverse { storage, .. } => streamed + storage.memory(block, n, width),
            Method::Identity => streamed,
        };
        training + 4.0 * gradients(q)
    };
    let read = if settings.projection.is_some() { 2.0 * BATCH } else { 0.0 };
    (read + blocks.iter().map(of_block).fold(0.0, f64::max)) / GIB
}

/// Measures the peak of the memory that this process holds, where the system counts it.
pub(super) struct Meter {
    /// What was held before the first method.
    base: Option<f64>,
    /// What was held before this one, if the system then forgot the highest value so far.
    before: Option<f64>,
}

/// The highest resident memory while a method ran, in MiB.
#[derive(Clone, Copy)]
pub(super) struct Peak {
    /// Above the memory held when it began: too low if it reused freed memory.
    pub(super) rise: f64,
    /// Above the memory held before the first method: too high if the program kept memory that other methods freed.
    pub(super) total: f64,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { base: field("/proc/self/status", "VmRSS"), before: None }
    }

    /// Begins a measurement.
    pub(super) fn begin(&mut self) {
        let forgotten = fs::write("/proc/self/clear_refs", "5").is_ok();
        self.before = field("/proc/self/status", "VmRSS").filter(|_| forgotten);
    }

    /// The peak since [`Meter::begin`].
    pub(super) fn peak(&self) -> Option<Peak> {
        let peak = field("/proc/self/status", "VmHWM")?;
        let above = |base: f64| (peak - base).max(0.0) / MIB;
        Some(Peak { rise: above(self.before?), total: above(self.base?) })
    }
}

/// A field of one of Linux' files, given there in kB, in bytes.
fn field(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}
