//! Memory: what a scoring needs, and what the system grants.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use burn::tensor::Device;
use hyperinf_gradients::Block;
use hyperinf_scoring::{Method, Options, Set};

use crate::{BATCH_BYTES, GradientPair, Precision};

/// One GiB in bytes.
pub(crate) const GIB: f64 = (1_u64 << 30) as f64;
const F64: f64 = 8.0;
/// Address space of stacks and of what is aligned.
const SLACK: f64 = 128.0 * 1024.0 * 1024.0;
/// Limits of a process, and what it uses of them.
const LIMITS: [(&str, &str); 2] = [("Max address space", "VmSize"), ("Max data size", "VmData")];

/// The sizes that the memory of a scoring depends on.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// The blocks that are scored, projected if they are.
    pub blocks: Vec<Block>,
    /// Training samples.
    pub train: usize,
    /// Samples of the curvature.
    pub curvature: usize,
    /// Rows of queries.
    pub queries: usize,
    /// Dampings at once.
    pub dampings: usize,
    /// Bytes of a number of the gradients.
    pub width: usize,
    /// Whether gradients are projected as they are read.
    pub projected: bool,
}

/// The approximate memory that a scoring needs, and the block for which it needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// In bytes.
    pub bytes: f64,
    /// The largest block, or all merged.
    pub block: Block,
}

impl Need {
    /// In GiB.
    pub fn gib(&self) -> f64 {
        self.bytes / GIB
    }
}

impl Sizes {
    /// Those of stored gradients.
    pub fn new(pair: &GradientPair, dampings: usize, device: &Device) -> Self {
        let contrast = pair.contrast.as_ref().map_or(0, |matched| matched.file.samples());
        Self {
            blocks: pair.scored_blocks(),
            train: pair.train.samples(),
            curvature: pair.file(Set::Curvature).samples(),
            queries: pair.samples(Set::Query).len() + contrast,
            dampings,
            width: if pair.precision(device) == Precision::Double { 8 } else { 4 },
            projected: pair.projection.is_some(),
        }
    }

    /// What these options need: the gradients of the largest block, its curvature with the inverse, the queries, the
    /// scores, and under a limit of address space what products reserve. Gradients count twice where they are held: the next block is read meanwhile, and norms take a copy.
    pub fn needed(&self, options: &Options) -> Need {
        let merged = Block::new("merged", 1, self.blocks.iter().map(Block::parameters).sum());
        let blocks = if options.merged { std::slice::from_ref(&merged) } else { &self.blocks };
        let of_block = |block: &Block| {
            let gradients = |samples: usize| samples as f64 * block.parameters() as f64 * self.width as f64;
            let streamed = (2.0 * gradients(self.train)).min(4.0 * BATCH_BYTES as f64);
            let rows = (self.queries * self.dampings) as f64 * block.parameters() as f64;
            streamed.max(self.curvature_of(block, options)) + gradients(self.queries) + 3.0 * F64 * rows
        };
        let (bytes, block) = blocks
            .iter()
            .map(|block| (of_block(block), block))
            .fold((0.0, &merged), |most, next| if next.0 > most.0 { next } else { most });
        let read = if self.projected { 2.0 * BATCH_BYTES as f64 } else { 0.0 };
        let read = read + if matches!(options.method, Method::Identity) { 0.0 } else { reserved() };
        let scores = 3.0 * F64 * (self.queries * self.dampings) as f64 * self.train as f64;
        Need { bytes: bytes + read + scores, block: block.clone() }
    }

    /// The curvature of all blocks with their inverses, held at once.
    pub(crate) fn held(&self, options: &Options) -> f64 {
        let merged = Block::new("merged", 1, self.blocks.iter().map(Block::parameters).sum());
        let blocks = if options.merged { std::slice::from_ref(&merged) } else { &self.blocks };
        blocks.iter().map(|block| self.curvature_of(block, options)).sum()
    }

    /// The curvature of a block with its inverse.
    fn curvature_of(&self, block: &Block, options: &Options) -> f64 {
        let Method::Inverse { storage, solver } = &options.method else { return 0.0 };
        let held = if storage.holds_samples(block, self.curvature) {
            let wide = if solver.widens_samples() { F64 / self.width as f64 } else { 0.0 };
            (2.0 + wide) * self.curvature as f64 * block.parameters() as f64 * self.width as f64
        } else {
            0.0
        };
        held + storage.memory(block, self.curvature)
    }
}

/// The memory in bytes that this process may still take: the least of the system's free memory, of its control groups and
/// of its limits on address space and data (`ulimit`); `None` where nothing is known.
pub fn available() -> Option<f64> {
    let free = field("/proc/meminfo", "MemAvailable");
    let limits = LIMITS.map(|(name, used)| Some((limit(name)? - field("/proc/self/status", used)?).max(0.0)));
    [free, group()].into_iter().chain(limits).flatten().reduce(f64::min)
}

/// The memory in bytes that this process holds; `None` where the system does not count it.
pub fn resident() -> Option<f64> {
    field("/proc/self/status", "VmRSS")
}

/// The most memory in bytes that this process held since it began or since [`reset_peak`].
pub fn peak_resident() -> Option<f64> {
    field("/proc/self/status", "VmHWM")
}

/// Makes the system forget the highest value so far, where it can.
pub fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Free bytes on the disk of a folder, or of the nearest one above it that exists; `None` where it is unknown.
pub fn free_space(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(there).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = there;
        None
    }
}

/// Address space that products on the host reserve beyond their numbers, where it is limited: each thread that takes
/// part asks for twice the processor's last cache, most of which it never touches.
fn reserved() -> f64 {
    if LIMITS.iter().all(|(name, _)| limit(name).is_none()) {
        return 0.0;
    }
    let cache = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").unwrap_or_default();
    let kib = cache.trim().strip_suffix('K').and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0);
    // The threads of the pool, and the one that waits for them.
    let threads = 1.0 + thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    threads * 2.0 * kib * 1024.0 + SLACK
}

/// A soft limit of this process; `None` where there is none.
fn limit(name: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What the control groups of this process leave, those above it included; memory of cached files can be had back.
fn group() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
    let left = |folder: &Path, [most, used, cached]: [&str; 3]| {
        let (most, used) = (number(folder.join(most))?, number(folder.join(used))?);
        let statistics = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let cached = statistics.lines().find_map(|line| line.strip_prefix(cached)?.trim().parse::<f64>().ok());
        Some((most - used + cached.unwrap_or(0.0)).max(0.0))
    };
    let groups = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (controllers, path) = (parts.nth(1)?, parts.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some(("/sys/fs/cgroup", path, ["memory.max", "memory.current", "inactive_file "])),
            names if names.split(',').any(|name| name == "memory") => {
                let files = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "];
                Some(("/sys/fs/cgroup/memory", path, files))
            }
            _ => None,
        }
    });
    let all = groups.flat_map(|(root, path, files)| {
        let root = Path::new(root);
        // Within a container the path may be the host's: then only the root is there.
        root.join(path)
            .ancestors()
            .take_while(|folder| folder.starts_with(root))
            .map(Path::to_owned)
            .map(move |folder| (folder, files))
            .collect::<Vec<_>>()
    });
    all.filter_map(|(folder, files)| left(&folder, files)).reduce(f64::min)
}

/// A field of one of Linux' files, given there in kB, in bytes.
fn field(file: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}
