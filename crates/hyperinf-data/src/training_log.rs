use std::fs::{File, read_dir, remove_file};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use hyperinf_models::{Progress as Step, is_checkpoint};
use hyperinf_store::{Staged, StoreError, WriteError, open_own};
use serde_json::{Value, json};
use twox_hash::XxHash3_128;

use crate::finetune::CHECKPOINTS;

/// The log's name when the run is over.
pub(crate) const NAME: &str = "training_log.jsonl";
/// Its name before: each line is followed by its hash, because a later run may continue it.
const PART: &str = ".training_log.jsonl.part";
/// The weight of the newest loss in the running mean.
const NEWEST: f64 = 0.1;

/// One line of JSON per step, next to the adapter. Runs with equal steps write equal lines.
pub(crate) struct TrainingLog {
    part: PathBuf,
    path: PathBuf,
    /// The file, from the first step on.
    file: Option<File>,
    /// A running mean of the losses.
    mean: Option<f64>,
    tokens: usize,
    /// Steps before a resumption whose lines are missing or damaged.
    lost: usize,
}

impl TrainingLog {
    /// A log in a folder that no other run writes.
    pub(crate) fn new(folder: &Path) -> Self {
        let (part, path) = (folder.join(PART), folder.join(NAME));
        Self { part, path, file: None, mean: None, tokens: 0, lost: 0 }
    }

    /// The log of a run that continues an earlier one after this many steps; those after them are taken again.
    pub(crate) fn resumed(folder: &Path, steps: usize) -> Result<Self, StoreError> {
        let mut log = Self::new(folder);
        log.take_over(steps).map_err(|source| StoreError::output(&log.part, source))?;
        Ok(log)
    }

    /// Cuts off the lines after `steps`; the others stay where they are, however often a run is interrupted.
    fn take_over(&mut self, steps: usize) -> io::Result<()> {
        let mut file = open_own(&self.part)?;
        let (mut line, mut at, mut end, mut kept) = (Vec::new(), 0, 0, 0);
        let mut lines = BufReader::new(&mut file);
        loop {
            line.clear();
            at += lines.read_until(b'\n', &mut line)? as u64;
            if !line.ends_with(b"\n") {
                break;
            }
            let Some((step, loss)) = intact(&line).and_then(step_and_loss) else { continue };
            if step < steps as u64 {
                self.count(loss);
                (end, kept) = (at, kept + 1);
            }
        }
        file.set_len(end)?;
        file.seek(SeekFrom::End(0))?;
        self.lost = steps.saturating_sub(kept);
        self.file = Some(file);
        Ok(())
    }

    /// Logs a step.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), StoreError> {
        self.write(step).map_err(|source| StoreError::output(&self.part, source))
    }

    fn write(&mut self, step: &Step) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = open_own(&self.part)?;
                file.set_len(0)?;
                file
            }
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
        let line = line.to_string();
        file.write_all(format!("{line}{}\n", seal(line.as_bytes())).as_bytes())?;
        self.file = Some(file);
        Ok(())
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

    /// Steps before a resumption that the log lacks.
    pub(crate) fn lost(&self) -> usize {
        self.lost
    }

    /// Where it will be.
    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// The whole log, to be placed at [`TrainingLog::path`].
    pub(crate) fn stage<'a>(&mut self, path: &'a Path) -> Result<Staged<'a>, StoreError> {
        let lines = self.lines().map_err(|source| StoreError::output(&self.part, source))?;
        Staged::new(path, |file| file.write_all(&lines).map_err(WriteError::Io))
    }

    /// The intact lines, without their hashes.
    fn lines(&mut self) -> io::Result<Vec<u8>> {
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        let lines = bytes.split_inclusive(|&byte| byte == b'\n').filter_map(intact);
        Ok(lines.flat_map(|line| [line, b"\n"].concat()).collect())
    }
}

impl Drop for TrainingLog {
    /// Without checkpoints there is nothing that the lines would be continued from: the hidden file goes.
    fn drop(&mut self) {
        let mut files = read_dir(self.part.with_file_name(CHECKPOINTS)).into_iter().flatten().flatten();
        if !files.any(|file| is_checkpoint(&file.path())) {
            // Another run with this folder begins it again.
            let _ = remove_file(&self.part);
        }
    }
}

/// What follows a line: its hash.
fn seal(line: &[u8]) -> String {
    format!(" {:032x}", XxHash3_128::oneshot(line))
}

/// The line before its hash; `None` if it was cut off or damaged.
fn intact(line: &[u8]) -> Option<&[u8]> {
    let sealed = line.strip_suffix(b"\n")?;
    let (line, hash) = sealed.split_at_checked(sealed.len().checked_sub(33)?)?;
    (seal(line).as_bytes() == hash).then_some(line)
}

fn step_and_loss(line: &[u8]) -> Option<(u64, f64)> {
    let line: Value = serde_json::from_slice(line).ok()?;
    Some((line.get("step")?.as_u64()?, line.get("loss")?.as_f64()?))
}
