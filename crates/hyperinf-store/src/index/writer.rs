use std::fs::{OpenOptions, create_dir_all, remove_file, rename};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use twox_hash::XxHash3_128;

use super::verify::{Hashes, hashes_of};
use super::{IndexError, IndexFolder, JOURNAL, MANIFEST, Manifest, Record, StoredRow, journal, rows_name, seal};
use crate::gradient_file::{Files, LIST, ShardList};
use crate::own_file::sync_folder;
use crate::{Check, GradientWriter, OutputFolder, Staged, StoreError, StoredType, stage_json};

/// An index that is built, extended or repaired; no other run writes it as long as this value is there.
pub struct IndexWriter {
    path: PathBuf,
    /// `None` for a part, whose folder other processes also write.
    folder: Option<OutputFolder>,
    earlier: Option<Manifest>,
    index: Option<IndexFolder>,
    canonical: bool,
}

/// What was found when the work on an index began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// The leaves to compute.
    pub missing: Vec<usize>,
    /// Of these, the ones that were finished and whose files are gone or have another length.
    pub lost: Vec<usize>,
}

impl IndexWriter {
    /// Locks a folder, which is created if it is missing.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written, another run is writing it, or its manifest is of a newer schema. A damaged
    /// manifest counts as none: [`IndexWriter::begin`] keeps the leaves that fit the new one.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let folder = OutputFolder::new(path, &[MANIFEST], &[])?;
        Self::new(path, Some(folder))
    }

    /// For the gradients of a part of the leaves, while other processes take those of other parts: the folder is not
    /// locked, and no leaf is finished.
    ///
    /// # Errors
    ///
    /// As [`IndexWriter::open`].
    pub fn of_part(path: &Path) -> Result<Self, IndexError> {
        create_dir_all(path).map_err(|e| IndexError::Write(StoreError::output(path, e)))?;
        Self::new(path, None)
    }

    fn new(path: &Path, folder: Option<OutputFolder>) -> Result<Self, IndexError> {
        let earlier = match Manifest::read(path) {
            Ok(manifest) => Some(manifest),
            Err(IndexError::NoIndex { .. } | IndexError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), folder, earlier, index: None, canonical: true })
    }

    /// The manifest that was found.
    pub fn earlier(&self) -> Option<&Manifest> {
        self.earlier.as_ref()
    }

    /// Fails if the index was built from something else than this manifest says; rows are not compared.
    ///
    /// # Errors
    ///
    /// [`IndexError::Differs`].
    pub fn check(&self, manifest: &Manifest) -> Result<(), IndexError> {
        match self.earlier.as_ref().map(|earlier| earlier.differences(manifest)) {
            Some(differences) if !differences.is_empty() => {
                Err(IndexError::Differs { path: self.path.clone(), differences })
            }
            _ => Ok(()),
        }
    }

    /// Writes the manifest, if it is another one than was found, and looks for finished leaves.
    ///
    /// # Errors
    ///
    /// [`IndexError::Differs`] if the index was built from something else, or a file cannot be read or written.
    pub fn begin(&mut self, manifest: Manifest) -> Result<Begun, IndexError> {
        let path = self.path.clone();
        let mut manifest = manifest;
        self.check(&manifest)?;
        if let Some(earlier) = &self.earlier {
            // It names the version that began it.
            manifest.program.clone_from(&earlier.program);
        }
        if self.earlier.as_ref() != Some(&manifest) {
            manifest.write(&path)?;
        }
        let found = journal::read(&path, &manifest)?;
        self.canonical = found.canonical;
        let (mut records, mut begun) = (found.records, Begun::default());
        for (leaf, there) in records.iter_mut().enumerate() {
            match there {
                // Files of finished leaves are the whole build's.
                Some(_) if self.folder.is_none() => {}
                Some(record) if settle(&path, record)? => {}
                Some(_) => {
                    begun.lost.push(leaf);
                    begun.missing.push(leaf);
                    *there = None;
                }
                None => begun.missing.push(leaf),
            }
        }
        self.canonical &= begun.lost.is_empty();
        self.earlier = Some(manifest.clone());
        self.index = Some(IndexFolder { path, manifest, records });
        Ok(begun)
    }

    /// The gradients of a leaf, to be written; what an interrupted run left of them is resumed.
    ///
    /// # Errors
    ///
    /// As [`GradientWriter::open`].
    ///
    /// # Panics
    ///
    /// Before [`IndexWriter::begin`], or if there is no such leaf.
    pub fn gradients(&self, leaf: usize) -> io::Result<GradientWriter> {
        self.gradients_checked(leaf, &mut |recorded| Ok(recorded.intact(&recorded.all())))
    }

    /// [`IndexWriter::gradients`] where `check` says which batches of an interrupted run are intact, as in
    /// [`GradientWriter::open_checked`].
    ///
    /// # Errors
    ///
    /// As [`GradientWriter::open_checked`].
    ///
    /// # Panics
    ///
    /// As [`IndexWriter::gradients`].
    pub fn gradients_checked(&self, leaf: usize, check: &mut Check<'_>) -> io::Result<GradientWriter> {
        let IndexFolder { path, manifest, .. } = self.index();
        let named = StoredType::NAMES.into_iter().find(|(name, _)| *name == manifest.dtype);
        let stored = named.map(|(_, stored)| stored).unwrap_or_default();
        let (key, rows) = (manifest.leaf_key(leaf), manifest.leaves[leaf].rows);
        let name = super::shard_name(leaf);
        GradientWriter::open_checked(stored, (path, &name), &key, rows, &manifest.layout(), check)
    }

    /// Finishes a leaf: its files get their names, and the journal its line.
    ///
    /// The line is written before the shard gets its name: a run that ends in between leaves a hidden file that the line
    /// vouches for.
    ///
    /// # Errors
    ///
    /// If gradients are missing, or a file cannot be written; what is written stays, and is found again.
    ///
    /// # Panics
    ///
    /// As [`IndexWriter::gradients`].
    pub fn finish_leaf(
        &mut self,
        leaf: usize,
        gradients: GradientWriter,
        rows: &[StoredRow],
    ) -> Result<(), IndexError> {
        let (path, manifest) = (self.index().path.clone(), self.index().manifest.clone());
        assert_eq!(rows.len(), manifest.leaves[leaf].rows, "one row per sample");
        let failed = |source: io::Error| IndexError::Write(StoreError::output(&path, source));
        let mut text = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut text, row).map_err(|error| StoreError::output(&path, error))?;
            text.push(b'\n');
        }
        let (part, log) = gradients.into_whole().map_err(failed)?;
        let Hashes { bytes, whole, blocks } = hashes_of(&part)?;
        let record = Record {
            leaf,
            key: manifest.leaf_hash(leaf),
            file: super::shard_name(leaf),
            bytes,
            xxh3_128: whole,
            blocks,
            rows_file: rows_name(leaf),
            rows_bytes: text.len() as u64,
            rows_xxh3_128: format!("{:032x}", XxHash3_128::oneshot(&text)),
        };
        let rows_path = path.join(&record.rows_file);
        Staged::new(&rows_path, |file| Ok(file.write_all(&text)?))?.place()?;
        let line = seal::seal(&record, false).map_err(|error| StoreError::output(&path, error))?;
        append(&path.join(JOURNAL), &line).map_err(failed)?;
        rename(&part, path.join(&record.file)).map_err(failed)?;
        // A journal without its file is begun again.
        let _ = remove_file(log);
        sync_folder(&path);
        if let Some(index) = &mut self.index {
            self.canonical &= index.records[leaf + 1..].iter().all(Option::is_none);
            index.records[leaf] = Some(record);
        }
        Ok(())
    }

    /// Lists the shards, once all leaves are finished.
    ///
    /// # Errors
    ///
    /// [`IndexError::Incomplete`], or if a file cannot be written.
    ///
    /// # Panics
    ///
    /// Before [`IndexWriter::begin`].
    pub fn finish(self) -> Result<IndexFolder, IndexError> {
        let index = self.index();
        let missing = index.missing().len();
        if missing > 0 {
            let (path, leaves) = (index.path.clone(), index.records.len());
            return Err(IndexError::Incomplete { path, finished: leaves - missing, leaves });
        }
        if !self.canonical {
            journal::write(&index.path, &index.records)?;
        }
        if !index.is_listed() {
            let path = index.path.join(LIST);
            stage_json(&path, &index.list())?.place()?;
        }
        Ok(index.clone())
    }

    /// Forgets that a leaf is finished, because its files are damaged.
    ///
    /// # Panics
    ///
    /// As [`IndexWriter::gradients`].
    pub fn forget(&mut self, leaf: usize) {
        self.canonical = false;
        if let Some(index) = &mut self.index {
            index.records[leaf] = None;
        }
    }

    fn index(&self) -> &IndexFolder {
        self.index.as_ref().expect("the work on the index has begun")
    }
}

impl IndexFolder {
    /// The list of its shards.
    pub(super) fn list(&self) -> ShardList {
        let records: Vec<&Record> = self.records.iter().flatten().collect();
        let files: Vec<String> = records.iter().map(|record| record.file.clone()).collect();
        let mut metadata = Map::new();
        metadata.insert("format".into(), "hyperinf".into());
        metadata.insert("samples".into(), self.manifest.rows().into());
        metadata.insert("total_size".into(), Value::from(records.iter().map(|record| record.bytes).sum::<u64>()));
        let block = |name: &String| (name.clone(), Files::Several(files.clone()));
        ShardList { metadata, weight_map: self.manifest.blocks.iter().map(|sides| block(&sides.name)).collect() }
    }

    /// Whether the list is there and right.
    pub(super) fn is_listed(&self) -> bool {
        let found = std::fs::read(self.path.join(LIST)).ok();
        let found = found.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        found.is_some() && found == serde_json::to_value(self.list()).ok()
    }
}

/// Whether the files of a finished leaf are there; a shard that has not got its name yet gets it.
fn settle(folder: &Path, record: &Record) -> Result<bool, IndexError> {
    let length = |path: &Path| path.symlink_metadata().ok().filter(|entry| entry.is_file()).map(|entry| entry.len());
    let (shard, part) = (folder.join(&record.file), hidden(folder, &record.file, "part"));
    let log = hidden(folder, &record.file, "journal");
    if length(&part) == Some(record.bytes) && hashes_of(&part).is_ok_and(|found| found.whole == record.xxh3_128) {
        let failed = |source| IndexError::Write(StoreError::output(&shard, source));
        rename(&part, &shard).map_err(failed)?;
        sync_folder(folder);
    }
    let whole = length(&shard) == Some(record.bytes);
    if whole {
        // A run that ended before it removed them.
        let _ = remove_file(&log);
        let _ = remove_file(&part);
    }
    Ok(whole && length(&folder.join(&record.rows_file)) == Some(record.rows_bytes))
}

fn hidden(folder: &Path, name: &str, ending: &str) -> PathBuf {
    folder.join(format!(".{name}.{ending}"))
}

/// Adds a line that survives a power cut; half a line that a dead run left is cut off first.
fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        let bytes = std::fs::read(path)?;
        file.set_len(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1))?;
    }
    file.write_all(line)?;
    file.sync_all()
}
