use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rayon::iter::{ParallelBridge, ParallelIterator};
use serde::{Deserialize, Serialize};

use super::retrain::count;
use crate::checksum::fnv1a;
use crate::{Outcome, Retrain, TruthError};

/// A training: its samples, ascending without repetition, and its seed.
pub type Job = (Vec<usize>, u64);

/// The results of retrainings, so that no training is repeated: in memory, or in a file with one line per result.
///
/// The file is JSON lines: a header with the task's fingerprint, then per training
/// `{"seed": 0, "subset": [0, 3, …], "losses": [0.1, …], "predictions": [4, …], "hash": "…"}`, where `hash` is the FNV-1a
/// hash of the line before it; a line without one is taken as it is.
/// A result is appended when its training ends, so an interrupted run loses only the trainings in progress. An
/// incomplete last line is removed when the file is opened. A file that is not a bank of the task is never changed.
pub struct Bank {
    fingerprint: String,
    queries: usize,
    file: Option<(PathBuf, File)>,
    results: HashMap<Job, Outcome>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    hyperinf_bank: u32,
    task: String,
    samples: usize,
    queries: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    seed: u64,
    subset: Vec<usize>,
    losses: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predictions: Option<Vec<usize>>,
}

impl Bank {
    /// An empty bank in memory.
    pub fn memory(task: &dyn Retrain) -> Self {
        let results = HashMap::new();
        Self { fingerprint: task.fingerprint(), queries: task.queries(), file: None, results }
    }

    /// The bank in a file, which is created if absent.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written, holds something other than a bank, belongs to another task, or has a line
    /// that is not a result.
    pub fn open(path: &Path, task: &dyn Retrain) -> Result<Self, TruthError> {
        let error = |source| TruthError::Bank { path: path.to_owned(), source };
        let mut bank = Self::memory(task);
        // Reading a named pipe would wait for its other end.
        if path.exists() && !path.is_file() {
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(error)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(error)?;
        let header = Header {
            hyperinf_bank: 1,
            task: bank.fingerprint.clone(),
            samples: task.samples(),
            queries: task.queries(),
        };
        match text.lines().next() {
            None => append(&mut file, &header).map_err(error)?,
            Some(first) => bank.check(path, first, &header)?,
        }
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for (text, line) in text[..whole].lines().zip(1..).skip(1) {
            let wrong = |source| TruthError::BankLine { path: path.to_owned(), line, queries: bank.queries, source };
            let Line { seed, subset, losses, predictions } =
                serde_json::from_str(text).map_err(|source| wrong(Some(source)))?;
            if !is_intact(text) {
                return Err(TruthError::DamagedLine { path: path.to_owned(), line });
            }
            let lengths = [Some(losses.len()), predictions.as_ref().map(Vec::len)];
            if lengths.into_iter().flatten().any(|length| length != bank.queries) {
                return Err(wrong(None));
            }
            bank.results.insert((subset, seed), Outcome { losses, predictions });
        }
        if whole == 0 && !text.is_empty() {
            // Only the newline of the header is missing.
            file.write_all(b"\n").map_err(error)?;
        } else if whole < text.len() {
            file.set_len(whole as u64).map_err(error)?;
        }
        bank.file = Some((path.to_owned(), file));
        Ok(bank)
    }

    fn check(&self, path: &Path, first: &str, expected: &Header) -> Result<(), TruthError> {
        let found: Header = serde_json::from_str(first).map_err(|source| TruthError::BankLine {
            path: path.to_owned(),
            line: 1,
            queries: self.queries,
            source: Some(source),
        })?;
        if found.task != expected.task {
            let (found, expected) = (found.task, expected.task.clone());
            return Err(TruthError::OtherTask { path: path.to_owned(), found, expected });
        }
        count("samples of the bank's task", found.samples, expected.samples)?;
        count("queries of the bank's task", found.queries, expected.queries)
    }

    /// The number of results.
    pub fn len(&self) -> usize {
        self.results.len()
    }

    /// Whether the bank is empty.
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// The outcomes of these trainings, in order. Trainings missing from the bank run on all of rayon's threads and are
    /// kept; `progress(done, of)` is called after each.
    ///
    /// # Errors
    ///
    /// If the task is not the bank's, a subset does not fit the task, a training fails or gives a loss that is not
    /// finite, or the file cannot be written. Results of finished trainings are kept.
    pub fn outcomes(
        &mut self,
        task: &dyn Retrain,
        jobs: &[Job],
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Vec<Outcome>, TruthError> {
        let (expected, found) = (task.fingerprint(), self.fingerprint.clone());
        if expected != found {
            let path = self.file.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
            return Err(TruthError::OtherTask { path, found, expected });
        }
        let mut missing: Vec<&Job> = Vec::new();
        let mut seen: HashSet<&Job> = HashSet::new();
        for job in jobs {
            check_subset(&job.0, task.samples())?;
            if !self.results.contains_key(job) && seen.insert(job) {
                missing.push(job);
            }
        }
        let of = missing.len();
        let shared = Mutex::new((&mut *self, 0));
        missing.into_iter().par_bridge().try_for_each(|job| {
            let outcome = run(task, job)?;
            // A thread that panics while holding the lock ends the whole run, so nobody reads a half-written state.
            let mut guard = shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let (bank, done) = &mut *guard;
            bank.keep(job, outcome)?;
            *done += 1;
            progress(*done, of);
            Ok::<(), TruthError>(())
        })?;
        Ok(jobs.iter().map(|job| self.results[job].clone()).collect())
    }

    fn keep(&mut self, job: &Job, outcome: Outcome) -> Result<(), TruthError> {
        if let Some((path, file)) = &mut self.file {
            let line = Line {
                seed: job.1,
                subset: job.0.clone(),
                losses: outcome.losses.clone(),
                predictions: outcome.predictions.clone(),
            };
            append_sealed(file, &line).map_err(|source| TruthError::Bank { path: path.clone(), source })?;
        }
        self.results.insert(job.clone(), outcome);
        Ok(())
    }
}

/// Appends a line in one write, so that no other process sees half of it.
fn append(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    file.write_all(text.as_bytes())
}

/// What stands between a line and its hash.
const HASH: &str = ",\"hash\":\"";

/// [`append`] with a hash of the line as its last field.
fn append_sealed(file: &mut File, line: &Line) -> io::Result<()> {
    let text = serde_json::to_string(line)?;
    let body = text.strip_suffix('}').unwrap_or(&text);
    file.write_all(format!("{body}{HASH}{}\"}}\n", hash(body)).as_bytes())
}

fn hash(body: &str) -> String {
    format!("{:016x}", fnv1a(body.bytes().map(u64::from)))
}

/// Whether a line is what was written, as far as it says so.
fn is_intact(text: &str) -> bool {
    text.rsplit_once(HASH).is_none_or(|(body, found)| found.strip_suffix("\"}") == Some(&*hash(body)))
}

fn check_subset(subset: &[usize], samples: usize) -> Result<(), TruthError> {
    let wrong = |index: usize| subset[index] >= samples || (index > 0 && subset[index - 1] >= subset[index]);
    match (0..subset.len()).find(|&index| wrong(index)) {
        None => Ok(()),
        Some(index) => Err(TruthError::Subset { index, value: subset[index], samples }),
    }
}

fn run(task: &dyn Retrain, (subset, seed): &Job) -> Result<Outcome, TruthError> {
    let outcome = task.outcome(subset, *seed)?;
    count("losses", outcome.losses.len(), task.queries())?;
    if let Some(predictions) = &outcome.predictions {
        count("predictions", predictions.len(), task.queries())?;
    }
    match outcome.losses.iter().position(|loss| !loss.is_finite()) {
        None => Ok(outcome),
        Some(query) => {
            let value = outcome.losses[query];
            Err(TruthError::Loss { query, value, samples: subset.len(), seed: *seed })
        }
    }
}
