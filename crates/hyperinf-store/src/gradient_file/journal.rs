//! The journal of a file of gradients that is being written: what it depends on, and which batches it holds.
//!
//! The first line is the [`Begin`] of the run. Each further line is a batch: its samples, the bits of their losses, and
//! the hash of all of this and of the gradients themselves. A line counts only if its hash is that of the file.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::{File, rename};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::own_file::open_own;

/// The format of journals.
const FORMAT: u32 = 2;

/// Everything that the numbers in a file of gradients depend on, by name: runs with equal keys write equal files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunKey(pub BTreeMap<String, String>);

impl<T: Into<String>, const N: usize> From<[(&str, T); N]> for RunKey {
    fn from(fields: [(&str, T); N]) -> Self {
        Self(fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
    }
}

impl RunKey {
    /// That of the gradients in a folder under this name, which may be half-written; `None` if there are none.
    pub fn of(folder: &Path, name: &str) -> Option<Self> {
        let begin = ["done", "journal"].into_iter().find_map(|ending| {
            let path = folder.join(format!(".{name}.{ending}"));
            // Reading a named pipe would wait for its other end.
            let log = path.is_file().then(|| File::open(path).ok()).flatten()?;
            let mut first = Vec::new();
            BufReader::new(log).read_until(b'\n', &mut first).ok()?;
            serde_json::from_slice::<Begin>(&first).ok()
        });
        begin.map(|begin| begin.key)
    }

    /// What differs between the key of an earlier run and that of the current one.
    pub fn differences(&self, now: &Self) -> Vec<KeyDifference> {
        let mut names: Vec<&String> = self.0.keys().chain(now.0.keys()).collect();
        names.sort();
        names.dedup();
        let changed = names.into_iter().filter(|name| self.0.get(*name) != now.0.get(*name)).map(|name| {
            let value = |key: &Self| key.0.get(name).cloned().unwrap_or_else(|| "absent".to_owned());
            KeyDifference { what: name.clone(), before: value(self), now: value(now) }
        });
        changed.collect()
    }
}

/// What differs between an earlier run and the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDifference {
    /// The name of the field.
    pub what: String,
    /// Its value in the earlier run.
    pub before: String,
    /// Its value now.
    pub now: String,
}

impl fmt::Display for KeyDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was {}, is {}", self.what, self.before, self.now)
    }
}

/// What a writer found of an earlier run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumption {
    /// Samples whose gradients are there and intact.
    pub samples: usize,
    /// Batches that were recorded but are damaged: they have to be computed again.
    pub damaged: usize,
    /// Whether the header of the file was damaged and written again.
    pub header: bool,
    /// Why nothing of an earlier run was used, if there was one.
    pub restarted: Option<Restart>,
}

/// Why a file of gradients was begun again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It belongs to another run.
    Differs(Vec<KeyDifference>),
    /// The beginning of its journal cannot be read.
    Damaged,
}

/// The first line of a journal.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Begin {
    format: u32,
    key: RunKey,
    samples: usize,
    blocks: Vec<(String, usize, usize)>,
}

/// A line of a journal: samples whose gradients were computed together and are in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) samples: Vec<usize>,
    /// The bits of the losses: decimal text may round them.
    pub(super) losses: Vec<u64>,
    pub(super) xxh3_128: String,
}

/// A journal as it was found.
pub(super) enum Found {
    /// Nothing, or not even its first line.
    Nothing,
    /// That of another run, or one that cannot be read.
    Useless(Restart),
    /// Batches of the same run that are recorded, and the number of lines that are none.
    Batches(Vec<Done>, usize),
}

impl Begin {
    pub(super) fn new(key: &RunKey, samples: usize, blocks: Vec<(String, usize, usize)>) -> Self {
        Self { format: FORMAT, key: key.clone(), samples, blocks }
    }

    /// What differs from an earlier run's beginning.
    fn differences(&self, earlier: &Self) -> Vec<KeyDifference> {
        let blocks = |begin: &Self| format!("{} blocks", begin.blocks.len());
        let fields = [
            ("format of the journal", earlier.format.to_string(), self.format.to_string()),
            ("rows", earlier.samples.to_string(), self.samples.to_string()),
            ("blocks", blocks(earlier), blocks(self)),
        ];
        let mut all: Vec<KeyDifference> = fields
            .into_iter()
            .map(|(what, before, now)| KeyDifference { what: what.to_owned(), before, now })
            .filter(|field| field.before != field.now)
            .collect();
        all.extend(earlier.key.differences(&self.key));
        if all.is_empty() {
            let [before, now] = ["other names or sides", "these"].map(str::to_owned);
            all.push(KeyDifference { what: "the blocks".into(), before, now });
        }
        all
    }
}

/// Reads a journal up to its last whole line, and cuts off what follows.
pub(super) fn read(log: &mut File, begin: &Begin) -> io::Result<Found> {
    log.seek(SeekFrom::Start(0))?;
    let mut lines = BufReader::new(&mut *log);
    // Bytes, not text: a machine that stopped may leave anything.
    let mut line = Vec::new();
    let mut whole = 0;
    let (mut first, mut batches, mut damaged) = (None, Vec::new(), 0);
    loop {
        line.clear();
        let length = lines.read_until(b'\n', &mut line)? as u64;
        if !line.ends_with(b"\n") {
            break;
        }
        whole += length;
        if first.is_none() {
            first = Some(serde_json::from_slice::<Begin>(&line).ok());
            continue;
        }
        match serde_json::from_slice::<Done>(&line) {
            Ok(done) => batches.push(done),
            Err(_) => damaged += 1,
        }
    }
    log.set_len(whole)?;
    log.seek(SeekFrom::End(0))?;
    Ok(match first {
        None => Found::Nothing,
        Some(Some(earlier)) if earlier == *begin => Found::Batches(batches, damaged),
        Some(Some(earlier)) => Found::Useless(Restart::Differs(begin.differences(&earlier))),
        Some(None) => Found::Useless(Restart::Damaged),
    })
}

/// Adds a line.
pub(super) fn append(log: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    log.write_all(&line)
}

/// Writes a journal again with these batches by their samples: they were written in the order in which they were done,
/// which may depend on ranks, interruptions and damage.
pub(super) fn put_in_order(log: &mut File, path: &Path, whole: &HashSet<Vec<usize>>) -> io::Result<File> {
    let mut text = Vec::new();
    log.seek(SeekFrom::Start(0))?;
    log.read_to_end(&mut text)?;
    let mut lines = text.split_inclusive(|&byte| byte == b'\n');
    let begin = lines.next().unwrap_or_default();
    // Of batches that were computed again the last line counts.
    let batch = |line| Some((serde_json::from_slice::<Done>(line).ok()?.samples, line));
    let batches: BTreeMap<Vec<usize>, &[u8]> =
        lines.filter_map(batch).filter(|(samples, _)| whole.contains(samples)).collect();
    let ordered = path.with_extension("ordered");
    let mut file = open_own(&ordered)?;
    // As locked as the journal is until now.
    file.try_lock()?;
    file.set_len(0)?;
    file.write_all(&[begin, &batches.into_values().collect::<Vec<_>>().concat()].concat())?;
    file.sync_all()?;
    rename(&ordered, path)?;
    Ok(file)
}

/// The hash of a batch: its samples, losses and gradients.
pub(super) struct BatchHash(XxHash3_128);

impl BatchHash {
    pub(super) fn new(samples: &[usize], losses: &[u64]) -> Self {
        let mut hash = XxHash3_128::new();
        let words = samples.iter().map(|&sample| sample as u64).chain(losses.iter().copied());
        words.for_each(|word| hash.write(&word.to_le_bytes()));
        Self(hash)
    }

    /// Adds the gradients of one sample in one block.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(super) fn text(&self) -> String {
        format!("{:032x}", self.0.finish_128())
    }
}

/// Fills a buffer from a place of a file; `false` if the file has no such bytes or they cannot be read.
pub(super) fn fill(file: &mut File, start: u64, buffer: &mut [u8]) -> bool {
    file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(buffer)).is_ok()
}
