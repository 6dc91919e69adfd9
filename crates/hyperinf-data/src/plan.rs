use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Serialize;

use crate::error::size;
use crate::event::Event;
use crate::plan_probe::GAIN;
use crate::run::{GRADIENT_FILES, Run};
use crate::select::Select;
use crate::{Choice, RunError, ensemble};
use hyperinf_store::{RunKey, free_space};

/// The command that trains.
pub(crate) const TRAINING: &str = "finetune";

/// What the scores of a [`Run`] are for.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// [`Run::attribute`].
    Attribute,
    /// [`Run::detect`], which also takes each training row's influence on itself.
    Detect,
    /// [`Run::select`].
    Select(Select),
}

impl Goal {
    /// The command.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Attribute => "attribute",
            Self::Detect => "detect",
            Self::Select(_) => "select",
        }
    }

    /// Further files of query rows.
    pub(crate) fn targets(&self) -> &[PathBuf] {
        if let Self::Select(select) = self { &select.targets } else { &[] }
    }

    /// The rows whose gradients are compared with each other, of so many rows and tokens.
    pub(crate) fn pool(&self, rows: usize, tokens: usize) -> Option<usize> {
        if let Self::Select(select) = self { select.planned_pool(rows, tokens) } else { None }
    }
}

/// What a run will take, by [`Run::plan`], [`Index::plan`](crate::Index::plan) or
/// [`Finetune::plan`](crate::Finetune::plan): the time of each step, memory, disk, and the largest batch that fits.
///
/// Times are those of a few batches of the run's own rows, of all lengths, and of the method on their gradients, scaled
/// to all rows; of a training those of a few steps. They assume that nothing of an earlier run is reused, and that the machine is as busy as it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunPlan {
    /// The command.
    pub command: &'static str,
    /// The training rows.
    pub train: PlannedRows,
    /// The query or validation rows of each file.
    pub query: Vec<PlannedRows>,
    /// The blocks whose gradients are taken; of a training the tensors.
    pub blocks: usize,
    /// The numbers of one row's gradients, over all blocks; of a training the trained parameters.
    pub parameters: usize,
    /// Batches.
    pub batch: PlannedBatch,
    /// The steps of the run, in order.
    pub steps: Vec<PlannedStep>,
    /// Memory.
    pub memory: PlannedMemory,
    /// Disk.
    pub disk: PlannedDisk,
    /// Why the scores would be refused, with what fits in their place.
    pub refusal: Option<String>,
    /// The seconds that the measurement took, without the loading.
    pub measured: f64,
}

/// Rows of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedRows {
    /// Their number.
    pub rows: usize,
    /// The sum of their lengths, in tokens.
    pub tokens: usize,
    /// The longest.
    pub longest: usize,
}

/// Batches of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedBatch {
    /// Rows of a forward and backward pass.
    pub rows: usize,
    /// The most of the longest rows that fit into memory, at most all rows; `None` where free memory is unknown.
    pub largest: Option<usize>,
    /// The fastest size that was measured and fits.
    pub fastest: usize,
    /// Rows per second of batches of rows of middle length, by size.
    pub speeds: Vec<(usize, f64)>,
}

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedStep {
    /// What it does.
    pub name: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// How much of it there is.
    pub work: String,
}

/// Memory of a plan, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PlannedMemory {
    /// The most with the longest batch, measured if it fits, else by the growth with its rows; `None` where the system
    /// does not count it, and without the memory of a graphics card.
    pub batches: Option<f64>,
    /// The most while rows are scored, by the sizes of what is held; `None` if none are.
    pub scores: Option<f64>,
    /// What the process may take, or what scores are allowed; `None` where it is unknown.
    pub available: Option<f64>,
}

/// Disk of a plan, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedDisk {
    /// The folder.
    pub folder: PathBuf,
    /// Gradients and scores; of a training the adapter and its checkpoints.
    pub needed: u64,
    /// What is free there; `None` where it is unknown.
    pub free: Option<u64>,
}

/// Something that a run needs more of than there is.
#[derive(Clone, Debug, PartialEq)]
pub enum Shortage {
    /// Memory for batches, in bytes.
    Batches {
        /// Their rows.
        rows: usize,
        /// What the process will hold.
        needed: f64,
        /// What it may hold.
        available: f64,
    },
    /// Memory for scores, in bytes.
    Memory {
        /// What they need.
        needed: f64,
        /// What there is.
        available: f64,
    },
    /// The scores would be refused.
    Scores {
        /// Why, with what fits in their place.
        refusal: String,
    },
    /// Disk, in bytes.
    Disk {
        /// The folder.
        folder: PathBuf,
        /// What the files need.
        needed: u64,
        /// What is free.
        free: u64,
    },
}

impl Run {
    /// What the run will take, from a measurement of a few seconds on its own rows. The model is loaded, and all rows are
    /// read. Nothing is left behind.
    ///
    /// # Errors
    ///
    /// As [`Run::attribute`], but for memory and disk, which the plan shows.
    pub fn plan(&self, goal: &Goal, device: &Device, observe: &mut dyn FnMut(Event)) -> Result<RunPlan, RunError> {
        self.validate()?;
        ensemble::refuse(self, Choice::Plan)?;
        let of_mean;
        let run = match goal {
            Goal::Attribute => self,
            Goal::Detect | Goal::Select(_) => {
                of_mean = self.of_mean();
                &of_mean
            }
        };
        let files = run.files()?;
        let kind = files.kind();
        kind.plan(run, goal, files, device, observe)
    }

    /// The batch size of gradients that an earlier run left in the folder: only with the same one are they reused.
    pub fn earlier_batch_size(&self) -> Option<usize> {
        RunKey::of(&self.out, GRADIENT_FILES[0])?.0.get("batch size")?.parse().ok()
    }
}

impl PlannedBatch {
    /// The fastest size of at most so many rows that was measured and fits: the smallest of those that are as fast.
    pub fn fastest_within(&self, most: usize) -> usize {
        let fits = |rows: usize| rows <= most && self.largest.is_none_or(|largest| rows <= largest);
        let fitting = || self.speeds.iter().filter(|(rows, _)| fits(*rows));
        let best = fitting().map(|(_, speed)| *speed).fold(0.0, f64::max);
        fitting().find(|(_, speed)| *speed >= best * (1.0 - GAIN)).map_or(self.rows.min(most), |(rows, _)| *rows)
    }
}

impl RunPlan {
    /// Seconds of all steps.
    pub fn seconds(&self) -> f64 {
        self.steps.iter().map(|step| step.seconds).sum()
    }

    /// What the run needs more of than there is.
    pub fn shortages(&self) -> Vec<Shortage> {
        let PlannedMemory { batches, scores, available } = self.memory;
        let missing = |needed: Option<f64>| needed.zip(available).filter(|(needed, available)| needed > available);
        let rows = self.batch.rows;
        let batches = missing(batches).map(|(needed, available)| Shortage::Batches { rows, needed, available });
        let scores = match &self.refusal {
            Some(refusal) => Some(Shortage::Scores { refusal: refusal.clone() }),
            None => missing(scores).map(|(needed, available)| Shortage::Memory { needed, available }),
        };
        batches.into_iter().chain(scores).chain(self.disk.shortage()).collect()
    }
}

impl PlannedDisk {
    /// So many bytes in a folder.
    pub fn new(folder: &Path, needed: u64) -> Self {
        Self { folder: folder.to_owned(), needed, free: free_space(folder) }
    }

    /// Whether there is too little room for the files.
    pub fn shortage(&self) -> Option<Shortage> {
        let Self { folder, needed, free } = self;
        let free = free.filter(|free| free < needed)?;
        Some(Shortage::Disk { folder: folder.clone(), needed: *needed, free })
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batches { rows, needed, available } => {
                let (needed, available) = (bytes(*needed), bytes(*available));
                write!(
                    f,
                    "batches of {rows} of the longest rows need about {needed} of memory, and there are {available}"
                )
            }
            Self::Memory { needed, available } => {
                write!(f, "the scores need about {} of memory, and there are {}", bytes(*needed), bytes(*available))
            }
            Self::Scores { refusal } => write!(f, "the scores would be refused: {refusal}"),
            Self::Disk { folder, needed, free } => {
                write!(f, "the files need {}, and {} are free in `{}`", size(*needed), size(*free), folder.display())
            }
        }
    }
}

impl fmt::Display for RunPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trains = self.command == TRAINING;
        let other = if trains { "check" } else { "query" };
        let sets = std::iter::once(("training", &self.train)).chain(self.query.iter().map(|rows| (other, rows)));
        for (what, PlannedRows { rows, tokens, longest }) in sets {
            writeln!(f, "{what:<9} {rows} rows, {tokens} tokens, at most {longest} each")?;
        }
        if trains {
            writeln!(f, "adapter   {} trained parameters in {} tensors", self.parameters, self.blocks)?;
        } else {
            writeln!(f, "gradients {} numbers of each row, in {} blocks", self.parameters, self.blocks)?;
        }
        for PlannedStep { name, seconds, work } in &self.steps {
            writeln!(f, "  {name:<20} {:>12}  {work}", duration(*seconds))?;
        }
        writeln!(f, "  {:<20} {:>12}", "all", duration(self.seconds()))?;
        let PlannedMemory { batches, scores, available } = &self.memory;
        let parts = [(batches, "for batches"), (scores, "for scores")];
        let parts = parts.iter().filter_map(|(most, what)| Some(format!("{} {what}", bytes((**most)?))));
        let parts = parts.collect::<Vec<_>>().join(", ");
        let parts = if parts.is_empty() { "not counted".to_owned() } else { parts };
        let free = available.map(|free| format!("; {} are free", bytes(free))).unwrap_or_default();
        writeln!(f, "memory    {parts}{free}")?;
        let PlannedDisk { folder, needed, free } = &self.disk;
        let free = free.map(|free| format!("; {} are free", size(free))).unwrap_or_default();
        writeln!(f, "disk      {} in {}{free}", size(*needed), folder.display())?;
        let PlannedBatch { rows, largest, fastest, speeds } = &self.batch;
        let speed = |(rows, speed): &(usize, f64)| format!("{rows}: {speed:.1}");
        let speeds = speeds.iter().map(speed).collect::<Vec<_>>().join(", ");
        let largest = largest.map(|largest| format!("; at most {largest} fit into memory")).unwrap_or_default();
        writeln!(f, "batch     {rows} rows; rows per second by size {speeds}; fastest {fastest}{largest}")?;
        write!(f, "measured in {:.1} s", self.measured)
    }
}

fn bytes(number: f64) -> String {
    size(number as u64)
}

/// A time in its two largest units; below ten seconds with a fraction.
pub fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}
