use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_128;

use super::{IndexError, IndexFolder, MANIFEST, rows_name, shard_name};
use crate::GradientFile;
use crate::factors::file::{files, is_whole};
use crate::gradient_file::LIST;
use crate::sketch::file as sketches;

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// What is wrong with a file of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The leaf that must be computed again; `None` for the list of the shards, which is only written again, and for
    /// kept curvature and sketches, which are removed.
    pub leaf: Option<usize>,
    /// The file.
    pub file: String,
    /// What is wrong.
    pub kind: FaultKind,
}

/// How a file is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The journal has no line that vouches for it.
    Unrecorded,
    /// It is not there, or cannot be read.
    Unreadable {
        /// Why.
        reason: String,
    },
    /// It has another length.
    Length {
        /// Bytes that the journal says.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// Its bytes are others.
    Hash {
        /// The first block whose numbers are others; `None`: something else in the file.
        block: Option<String>,
    },
    /// The list does not name the shards of each block.
    List,
    /// It is a kept curvature, and not what was written; it is not used, and may be removed.
    Factors,
    /// It is a sketch, and not that of the leaf; it is not used, and may be removed.
    Sketch,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        match &self.kind {
            FaultKind::Unrecorded => f.write_str("the journal has no intact line for it"),
            FaultKind::Unreadable { reason } => write!(f, "it cannot be read: {reason}"),
            FaultKind::Length { expected, found } => write!(f, "it has {found} bytes, expected {expected}"),
            FaultKind::Hash { block: Some(block) } => write!(f, "the numbers of block `{block}` are damaged"),
            FaultKind::Hash { block: None } => f.write_str("it is damaged"),
            FaultKind::List => f.write_str("it does not list the shards"),
            FaultKind::Factors => f.write_str("this kept curvature is damaged, and not used"),
            FaultKind::Sketch => f.write_str("this sketch is damaged or that of other gradients, and not used"),
        }
    }
}

/// The hashes of a shard.
pub(super) struct Hashes {
    pub(super) bytes: u64,
    pub(super) whole: String,
    /// Of each block's numbers.
    pub(super) blocks: Vec<String>,
}

/// Reads a shard once.
pub(super) fn hashes_of(path: &Path) -> Result<Hashes, IndexError> {
    let failed = |source| IndexError::Gradients { path: path.to_owned(), source: Box::new(source) };
    let shard = GradientFile::open_file(path).map_err(failed)?;
    let mut sections: Vec<((u64, u64), XxHash3_128)> =
        shard.blocks().iter().map(|stored| (stored.bytes(), XxHash3_128::new())).collect();
    let (bytes, whole) = hash(path, &mut |at, piece| {
        let end = at + piece.len() as u64;
        let first = sections.partition_point(|((_, last), _)| *last <= at);
        for ((from, to), hasher) in sections[first..].iter_mut().take_while(|((from, _), _)| *from < end) {
            hasher.write(&piece[(at.max(*from) - at) as usize..(end.min(*to) - at) as usize]);
        }
    })
    .map_err(|source| IndexError::Read { path: path.to_owned(), source })?;
    let blocks = sections.iter().map(|(_, hasher)| format!("{:032x}", hasher.finish_128())).collect();
    Ok(Hashes { bytes, whole, blocks })
}

/// The length and the hash of a file, whose pieces are seen as well.
fn hash(path: &Path, see: &mut dyn FnMut(u64, &[u8])) -> io::Result<(u64, String)> {
    let (mut file, mut hasher) = (File::open(path)?, XxHash3_128::new());
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((at, format!("{:032x}", hasher.finish_128()))),
            read => {
                hasher.write(&buffer[..read]);
                see(at, &buffer[..read]);
                at += read as u64;
            }
        }
    }
}

impl IndexFolder {
    /// Compares every file with its hash in the journal; `done` is called with the number of leaves that are checked.
    ///
    /// The manifest was checked when the index was opened.
    pub fn verify(&self, done: &mut dyn FnMut(usize)) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (leaf, record) in self.records.iter().enumerate() {
            let fault = |file: String, kind| Fault { leaf: Some(leaf), file, kind };
            match record {
                None => faults.push(fault(shard_name(leaf), FaultKind::Unrecorded)),
                Some(record) => {
                    let files = [
                        (shard_name(leaf), record.bytes, &record.xxh3_128),
                        (rows_name(leaf), record.rows_bytes, &record.rows_xxh3_128),
                    ];
                    for (number, (file, bytes, expected)) in files.into_iter().enumerate() {
                        let path = self.path.join(&file);
                        let kind = match hash(&path, &mut |_, _| {}) {
                            Err(error) => FaultKind::Unreadable { reason: error.to_string() },
                            Ok((found, _)) if found != bytes => FaultKind::Length { expected: bytes, found },
                            Ok((_, found)) if found != *expected => {
                                let blocks = (number == 0).then(|| hashes_of(&path).ok()).flatten();
                                let mut pairs = blocks.iter().flat_map(|found| found.blocks.iter().zip(&record.blocks));
                                let place = pairs.position(|(found, expected)| found != expected);
                                let block = place.map(|place| self.manifest.blocks[place].name.clone());
                                FaultKind::Hash { block }
                            }
                            Ok(_) => continue,
                        };
                        faults.push(fault(file, kind));
                    }
                }
            }
            done(leaf + 1);
        }
        if !self.is_listed() {
            faults.push(Fault { leaf: None, file: LIST.to_owned(), kind: FaultKind::List });
        }
        for path in self.factors().into_iter().filter(|path| !is_whole(path)) {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            faults.push(Fault { leaf: None, file, kind: FaultKind::Factors });
        }
        for path in self.sketches().into_iter().filter(|path| !sketches::is_whole(self, path)) {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            faults.push(Fault { leaf: None, file, kind: FaultKind::Sketch });
        }
        faults
    }

    /// The sketches that earlier questions have left in it; see [`crate::Sketches`].
    pub fn sketches(&self) -> Vec<PathBuf> {
        sketches::files(&self.path)
    }

    /// The files of curvature that earlier runs have left in it; see [`crate::training_factors`].
    pub fn factors(&self) -> Vec<PathBuf> {
        files(&self.path)
    }

    /// The names of the files that an index has next to its leaves.
    pub fn common_files() -> [&'static str; 3] {
        [MANIFEST, super::JOURNAL, LIST]
    }
}
