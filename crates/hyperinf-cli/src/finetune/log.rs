use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::PathBuf;

use hyperinf::models::Progress as Step;
use serde_json::{Value, json};

use crate::args::FinetuneArgs;
use crate::error::CliError;
use hyperinf::store::StoreError;

/// The log's name when the run is over.
const NAME: &str = "training_log.jsonl";
/// Its name before.
const PART: &str = ".training_log.jsonl.part";
/// The weight of the newest loss in the mean that is told.
const NEWEST: f64 = 0.1;

/// One line of JSON per step, beside the adapter.
pub(super) struct Log {
    part: PathBuf,
    path: PathBuf,
    file: File,
    /// Lines of an earlier run that this one may go on from.
    earlier: Option<Vec<String>>,
    /// A mean of the last losses.
    mean: Option<f64>,
    tokens: usize,
}

impl Log {
    pub(super) fn new(args: &FinetuneArgs) -> Result<Self, CliError> {
        let (part, path) = (args.out.join(PART), args.out.join(NAME));
        let failed = |source: io::Error| CliError::from(StoreError::output(&part, source));
        let file = OpenOptions::new().append(true).create(true).open(&part).map_err(failed)?;
        // Two runs would take each other's checkpoints for their own.
        let locked = file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another run is writing it"),
            TryLockError::Error(error) => error,
        });
        locked.map_err(failed)?;
        let earlier = match fs::read_to_string(&part) {
            Ok(text) if args.resume => text.lines().map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Ok(Self { part, path, file, earlier: Some(earlier), mean: None, tokens: 0 })
    }

    /// Notes a step.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), CliError> {
        let mean = self.mean.map_or(step.loss, |mean| mean + NEWEST * (step.loss - mean));
        self.mean = Some(mean);
        self.tokens += step.tokens;
        Ok(self.write(step).map_err(|source| StoreError::output(&self.part, source))?)
    }

    fn write(&mut self, step: &Step) -> io::Result<()> {
        if let Some(earlier) = self.earlier.take() {
            // Steps after the checkpoint that the run goes on from are taken again.
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

    /// The state for people.
    pub(super) fn told(&self, step: &Step) -> String {
        let speed = self.tokens as f64 / step.elapsed.as_secs_f64().max(1e-9);
        let validation = step.validation.map_or_else(String::new, |loss| format!(", validation {loss:.3}"));
        format!("loss {:.3}{validation}, {speed:.0} tokens/s", self.mean.unwrap_or(step.loss))
    }

    /// The mean of the last losses.
    pub(super) fn mean(&self) -> Option<f64> {
        self.mean
    }

    /// Gives the log its name.
    pub(super) fn place(self) -> Result<(), CliError> {
        Ok(fs::rename(&self.part, &self.path).map_err(|source| StoreError::output(&self.path, source))?)
    }
}

/// The step of a line; a line that was cut off has none.
fn number(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64()
}
