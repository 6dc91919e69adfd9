//! Memory: needed by a method, free, and used.

use std::fs;

use hyperinf::store::{GradientPair, Sizes, available};

use crate::score::Settings;

/// One GiB and one MiB in bytes.
const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;
/// The share of the free memory that a method may take.
const SHARE: f64 = 0.8;

/// The memory that methods may take, in GiB; `None` where the system does not report it.
pub(super) fn limit(asked: Option<f64>) -> Option<f64> {
    asked.or_else(|| Some(available()? / GIB * SHARE))
}

/// The approximate memory that a method needs, in GiB.
pub(super) fn needed(settings: &Settings, pair: &GradientPair) -> f64 {
    Sizes::new(pair, 1, &settings.device).needed(&settings.options).gib()
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
