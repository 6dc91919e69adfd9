use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hyperinf_models::Progress as Step;
use hyperinf_store::StoreError;
use serde_json::{Value, json};

/// The log's name when the run is over.
pub(crate) const NAME: &str = "training_log.jsonl";
/// Its name before.
const PART: &str = ".training_log.jsonl.part";
/// The weight of the newest loss in the running mean.
const NEWEST: f64 = 0.1;

/// One line of JSON per step, next to the adapter.
pub(crate) struct TrainingLog {
    part: PathBuf,
    path: PathBuf,
    file: File,
    /// Lines of an earlier run, from which this one may resume.
    earlier: Option<Vec<String>>,
    /// A running mean of the losses.
    mean: Option<f64>,
    tokens: usize,
}

impl TrainingLog {
    pub(crate) fn new(folder: &Path, resume: bool) -> Result<Self, StoreError> {
        let (part, path) = (folder.join(PART), folder.join(NAME));
        let failed = |source: io::Error| StoreError::output(&part, source);
        let file = OpenOptions::new().append(true).create(true).open(&part).map_err(failed)?;
        // Two runs would take each other's checkpoints for their own.
        let locked = file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another run is writing it"),
            TryLockError::Error(error) => error,
        });
        locked.map_err(failed)?;
        let earlier = match fs::read_to_string(&part) {
            Ok(text) if resume => text.lines().map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Ok(Self { part, path, file, earlier: Some(earlier), mean: None, tokens: 0 })
    }

    /// Logs a step.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), StoreError> {
        let mean = self.mean.map_or(step.loss, |mean| mean + NEWEST * (step.loss - mean));
        self.mean = Some(mean);
        self.tokens += step.tokens;
        self.write(step).map_err(|source| StoreError::output(&self.part, source))
    }

    fn write(&mut self, step: &Step) -> io::Result<()> {
        if let Some(earlier) = self.earlier.take() {
            // Steps after the checkpoint are taken again.
            self.file.set_len(0)?;
            for line in earlier.iter().filter(|line| number(line).is_some_and(|taken| taken < step.step as u64)) {
                writeln!(self.file, "{line}")?;
            }
        }
        let mut line = json!({
            "step": step.step,
            "epoch": step.epoch,
            "learning_rate": step.learning_rate,
            "loss": step.loss,
            "tokens": step.tokens,
            "seconds": step.elapsed.as_secs_f64(),
        });
        if let Some(loss) = step.validation {
            line["validation_loss"] = loss.into();
        }
        writeln!(self.file, "{line}")
    }

    /// Tokens per second.
    pub(crate) fn speed(&self, step: &Step) -> f64 {
        self.tokens as f64 / step.elapsed.as_secs_f64().max(1e-9)
    }

    /// The running mean of the losses.
    pub(crate) fn mean(&self) -> Option<f64> {
        self.mean
    }

    /// Gives the log its final name.
    pub(crate) fn place(self) -> Result<(), StoreError> {
        fs::rename(&self.part, &self.path).map_err(|source| StoreError::output(&self.path, source))
    }
}

/// The step of a line; `None` for a line that was cut off.
fn number(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64()
}
