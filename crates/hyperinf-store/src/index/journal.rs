use std::fs::{File, metadata};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{IndexError, JOURNAL, Manifest, rows_name, seal, shard_name};
use crate::Staged;

/// A line of the journal: a finished leaf, and the hashes of its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The leaf.
    pub leaf: usize,
    /// A hash of what its numbers depend on.
    pub key: String,
    /// The file of its gradients.
    pub file: String,
    /// The file's length.
    pub bytes: u64,
    /// XXH3 of the file, 128 bits.
    pub xxh3_128: String,
    /// XXH3 of the numbers of each block.
    pub blocks: Vec<String>,
    /// The file of its rows.
    pub rows_file: String,
    /// That file's length.
    pub rows_bytes: u64,
    /// XXH3 of that file.
    pub rows_xxh3_128: String,
}

/// A journal as it was found.
pub(super) struct Found {
    /// The record of each leaf that has a line.
    pub(super) records: Vec<Option<Record>>,
    /// Whether the file is what a run without interruptions writes.
    pub(super) canonical: bool,
}

/// Reads a journal; damaged lines, and those of other leaves, do not count.
pub(super) fn read(folder: &Path, manifest: &Manifest) -> Result<Found, IndexError> {
    let path = folder.join(JOURNAL);
    let mut found = Found { records: vec![None; manifest.leaves.len()], canonical: true };
    match metadata(&path) {
        Ok(entry) if entry.is_file() => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Ok(_) => return Err(IndexError::Damaged { path, reason: "it is not a regular file".into() }),
        Err(source) => return Err(IndexError::Read { path, source }),
    }
    let failed = |source| IndexError::Read { path: path.clone(), source };
    let mut lines = BufReader::new(File::open(&path).map_err(failed)?);
    let (mut line, mut next) = (Vec::new(), 0);
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            return Ok(found);
        }
        let record = parse(&line).filter(|record| {
            let leaf = record.leaf;
            leaf < manifest.leaves.len()
                && (record.file == shard_name(leaf) && record.rows_file == rows_name(leaf))
                && record.blocks.len() == manifest.blocks.len()
                && record.key == manifest.leaf_hash(leaf)
        });
        let Some(record) = record else {
            found.canonical = false;
            continue;
        };
        found.canonical &= record.leaf == next;
        next = record.leaf + 1;
        let leaf = record.leaf;
        found.records[leaf] = Some(record);
    }
}

fn parse(line: &[u8]) -> Option<Record> {
    seal::is_intact(line).then(|| serde_json::from_slice(line).ok()).flatten()
}

/// Writes the whole journal anew.
pub(super) fn write(folder: &Path, records: &[Option<Record>]) -> Result<(), IndexError> {
    let path = folder.join(JOURNAL);
    let staged = Staged::new(&path, |file| {
        for record in records.iter().flatten() {
            file.write_all(&seal::seal(record, false)?)?;
        }
        Ok(())
    })?;
    Ok(staged.place()?)
}
