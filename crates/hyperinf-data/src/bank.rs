//! A folder that keeps what trainings without some rows led to.

use std::fs::{self, create_dir_all};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hyperinf_store::{KeyDifference, RunKey, Staged, StoreError, WriteError, check_writable, write_json};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::RunError;
use crate::retrain::{Question, Removal};

/// The file of everything that the results depend on.
const KEY: &str = "bank.json";

/// A folder with one small file for each training, so that nothing is trained twice, an interrupted run resumes, and
/// several processes fill it at once. `bank.json` has the key: everything that the numbers depend on, by name; each file
/// carries the hash of the key and of itself.
pub(crate) struct Bank {
    folder: PathBuf,
    queries: usize,
    /// The hash of the key.
    key: String,
}

#[derive(Serialize, Deserialize)]
struct Key {
    hyperinf_bank: u32,
    key: RunKey,
}

/// Why a bank of trainings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BankError {
    /// It is of another model, other rows or other settings.
    #[error("the bank `{path}` is of other trainings: {}; choose another folder", joined(.differences))]
    Other {
        /// The folder.
        path: PathBuf,
        /// What differs; the bank's value is the earlier one.
        differences: Vec<KeyDifference>,
    },
    /// A file of it is not what was written.
    #[error("`{path}` of a bank of trainings is damaged: {reason}; without the file it is trained again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A result. Losses are their bits, which decimal text may round.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    question: String,
    seed: u64,
    removed: Vec<usize>,
    losses: Vec<String>,
    /// Of the fields before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    xxh3_128: String,
}

const VERSION: u32 = 1;

impl Bank {
    /// Opens a bank, or makes it.
    ///
    /// # Errors
    ///
    /// [`BankError`] if it is of other settings or its key cannot be read, or as writing.
    pub(crate) fn open(folder: &Path, key: RunKey, queries: usize) -> Result<Self, RunError> {
        let path = folder.join(KEY);
        create_dir_all(folder).map_err(|source| StoreError::output(folder, source))?;
        check_writable(&path)?;
        let digest = hash(format!("{:?}", key.0).as_bytes());
        let found = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(damaged(&path, error.to_string())),
        };
        match found {
            // Processes that begin together write the same bytes.
            None => write_json(&path, &Key { hyperinf_bank: VERSION, key })?,
            Some(bytes) => {
                let earlier: Key = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error.to_string()))?;
                if earlier.hyperinf_bank != VERSION {
                    let found = earlier.hyperinf_bank;
                    return Err(damaged(&path, format!("it has version {found}, this program reads {VERSION}")));
                }
                let differences = earlier.key.differences(&key);
                if !differences.is_empty() {
                    return Err(BankError::Other { path: folder.to_owned(), differences }.into());
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), queries, key: digest })
    }

    /// The losses of the queries after a training; `None` if it is not there yet.
    ///
    /// # Errors
    ///
    /// [`BankError::Damaged`] if the file is damaged, or of another bank.
    pub(crate) fn get(&self, question: Question, removal: &Removal) -> Result<Option<Vec<f64>>, RunError> {
        let path = self.path(question, removal);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(damaged(&path, error.to_string())),
        };
        let bad = |reason: &str| damaged(&path, reason.to_owned());
        let line: Line = serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        let seal = line.xxh3_128.clone();
        let line = Line { xxh3_128: String::new(), ..line };
        if seal != sealed(&line)? {
            return Err(bad("its hash is another one"));
        }
        if line.key != self.key {
            return Err(bad("it is of a bank of other settings"));
        }
        if (line.question.as_str(), line.seed, &line.removed) != (question.name(), removal.seed, &removal.rows) {
            return Err(bad("it is of another training than its name says"));
        }
        let number = |text: &String| u64::from_str_radix(text, 16).map(f64::from_bits).ok();
        let losses: Option<Vec<f64>> = line.losses.iter().map(number).collect();
        let losses = losses.ok_or_else(|| bad("a loss is not 16 hexadecimal digits"))?;
        if losses.len() != self.queries {
            return Err(bad(&format!("it has {} losses, and there are {} queries", losses.len(), self.queries)));
        }
        Ok(Some(losses))
    }

    /// Keeps the losses after a training.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(crate) fn keep(&self, question: Question, removal: &Removal, losses: &[f64]) -> Result<(), RunError> {
        let path = self.path(question, removal);
        let mut line = Line {
            key: self.key.clone(),
            question: question.name().to_owned(),
            seed: removal.seed,
            removed: removal.rows.clone(),
            losses: losses.iter().map(|loss| format!("{:016x}", loss.to_bits())).collect(),
            xxh3_128: String::new(),
        };
        line.xxh3_128 = sealed(&line)?;
        let text = text(&line)?;
        let write = |file: &mut fs::File| writeln!(file, "{text}").map_err(WriteError::Io);
        Ok(Staged::new(&path, write)?.place()?)
    }

    /// The file of a training, named by what it leaves out and its seed.
    fn path(&self, question: Question, removal: &Removal) -> PathBuf {
        let rows: Vec<String> = removal.rows.iter().map(usize::to_string).collect();
        let hash = hash(format!("{}:{}", removal.seed, rows.join(",")).as_bytes());
        self.folder.join(format!("{}-{hash}.json", question.name()))
    }
}

fn joined(differences: &[KeyDifference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn sealed(line: &Line) -> Result<String, RunError> {
    Ok(hash(text(line)?.as_bytes()))
}

fn text(line: &Line) -> Result<String, RunError> {
    serde_json::to_string(line).map_err(|error| damaged(Path::new(KEY), error.to_string()))
}

fn hash(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}

fn damaged(path: &Path, reason: String) -> RunError {
    BankError::Damaged { path: path.to_owned(), reason }.into()
}
