use std::fs::{File, read, read_dir, remove_file};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use hyperinf_models::Progress as Step;
use hyperinf_store::{Staged, StoreError, WriteError, open_own};
use serde_json::{Value, json};

use crate::finetune::CHECKPOINTS;

/// The log's name when the run is over.
pub(crate) const NAME: &str = "training_log.jsonl";
/// Its name before.
const PART: &str = ".training_log.jsonl.part";
/// The weight of the newest loss in the running mean.
const NEWEST: f64 = 0.1;

/// One line of JSON per step, next to the adapter. Runs with equal steps write equal lines.
pub(crate) struct TrainingLog {
    part: PathBuf,
    path: PathBuf,
    /// The file, from the first step on.
    file: Option<File>,
    /// Lines of an earlier run, from which this one may resume.
    earlier: Vec<String>,
    /// A running mean of the losses.
    mean: Option<f64>,
    tokens: usize,
}

impl TrainingLog {
    /// A log in a folder that no other run writes.
    pub(crate) fn new(folder: &Path, resume: bool) -> Self {
        let (part, path) = (folder.join(PART), folder.join(NAME));
        let earlier = match read(&part) {
            Ok(bytes) if resume => String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Self { part, path, file: None, earlier, mean: None, tokens: 0 }
    }

    /// Logs a step.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), StoreError> {
        self.write(step).map_err(|source| StoreError::output(&self.part, source))
    }

    fn write(&mut self, step: &Step) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.begin(step)?,
        };
        self.count(step.loss);
        self.tokens += step.tokens;
        let mut line = json!({
            "step": step.step,
            "epoch": step.epoch,
            "learning_rate": step.learning_rate,
            "loss": step.loss,
            "tokens": step.tokens,
        });
        if let Some(loss) = step.validation {
            line["validation_loss"] = loss.into();
        }
        writeln!(file, "{line}")?;
        self.file = Some(file);
        Ok(())
    }

    /// Begins the file with the earlier lines before a step: those after the checkpoint are taken again.
    fn begin(&mut self, step: &Step) -> io::Result<File> {
        let mut file = open_own(&self.part)?;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        for line in std::mem::take(&mut self.earlier) {
            let Some((taken, loss)) = step_and_loss(&line) else { continue };
            if taken < step.step as u64 {
                writeln!(file, "{line}")?;
                self.count(loss);
            }
        }
        Ok(file)
    }

    fn count(&mut self, loss: f64) {
        self.mean = Some(self.mean.map_or(loss, |mean| mean + NEWEST * (loss - mean)));
    }

    /// Tokens per second.
    pub(crate) fn speed(&self, step: &Step) -> f64 {
        self.tokens as f64 / step.elapsed.as_secs_f64().max(1e-9)
    }

    /// The running mean of the losses.
    pub(crate) fn mean(&self) -> Option<f64> {
        self.mean
    }

    /// Where it will be.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// The whole log, to be placed at [`TrainingLog::path`].
    pub(crate) fn stage<'a>(&self, path: &'a Path) -> Result<Staged<'a>, StoreError> {
        let lines = self.file.as_ref().map_or(Ok(Vec::new()), |_| read(&self.part));
        let lines = lines.map_err(|source| StoreError::output(&self.part, source))?;
        Staged::new(path, |file| file.write_all(&lines).map_err(WriteError::Io))
    }
}

impl Drop for TrainingLog {
    /// Without checkpoints there is nothing that the lines would be continued from: the hidden file goes.
    fn drop(&mut self) {
        let checkpoints = self.part.with_file_name(CHECKPOINTS);
        if !read_dir(checkpoints).is_ok_and(|mut files| files.next().is_some()) {
            // Another run with this folder begins it again.
            let _ = remove_file(&self.part);
        }
    }
}

/// The step and the loss of a line; `None` for a line that was cut off.
fn step_and_loss(line: &str) -> Option<(u64, f64)> {
    let line: Value = serde_json::from_str(line).ok()?;
    Some((line.get("step")?.as_u64()?, line.get("loss")?.as_f64()?))
}
