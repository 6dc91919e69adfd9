use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf, absolute};
use std::time::{Duration, Instant};

use hyperinf_gradients::Block;
use serde_json::json;

use super::StoredType;
use super::journal::{self, BatchHash, Begin, Done, Found, Resumption, RunKey};
use super::recorded::{Check, RecordedBatches};
use crate::no_room::with_room;
use crate::own_file::{folder_of, open_own, sync_folder};

/// The header's length is a multiple of this many bytes, so that the numbers are aligned for any reader.
const ALIGNMENT: usize = 8;
/// How often the file is synced at most while batches are written.
const SYNC: Duration = Duration::from_secs(1);

/// A file of gradients being written, batch by batch in any order, and resumable after an interruption.
///
/// The file has its final size from the start; a journal next to it records which batches it holds, with their
/// hashes. Both are hidden files until [`GradientWriter::place`] or [`GradientWriter::discard`]. What an earlier run
/// left is used only as far as its key is the same and its hashes are those of the file: whatever was damaged is
/// computed again, and a resumed file equals that of an undisturbed run byte by byte.
///
/// A file that was placed keeps its journal, so that a later run with the same key finds its gradients there.
pub struct GradientWriter {
    path: PathBuf,
    journal: PathBuf,
    file: File,
    log: File,
    stored: StoredType,
    blocks: Vec<Block>,
    /// The first byte of each block's numbers.
    starts: Vec<u64>,
    losses: Vec<Option<f64>>,
    batches: HashSet<Vec<usize>>,
    found: Resumption,
    /// Whether it is a file that an earlier run placed.
    placed: bool,
    /// When the file was last synced.
    synced: Instant,
}

impl GradientWriter {
    /// Resumes what a run with the same key, samples and blocks left in the folder, or starts from nothing.
    ///
    /// # Errors
    ///
    /// If the files cannot be created or read, are links, or another process is writing them.
    pub fn open(folder: &Path, name: &str, key: &RunKey, samples: usize, blocks: &[Block]) -> io::Result<Self> {
        Self::open_as(StoredType::F32, folder, name, key, samples, blocks)
    }

    /// [`GradientWriter::open`] for numbers of a type, which is part of the key.
    ///
    /// # Errors
    ///
    /// As [`GradientWriter::open`].
    pub fn open_as(
        stored: StoredType,
        folder: &Path,
        name: &str,
        key: &RunKey,
        samples: usize,
        blocks: &[Block],
    ) -> io::Result<Self> {
        let check = &mut |recorded: &RecordedBatches| Ok(recorded.intact(&recorded.all()));
        Self::open_checked(stored, (folder, name), key, samples, blocks, check)
    }

    /// [`GradientWriter::open_as`] where `check` says which of the recorded batches are intact: several processes may
    /// check some each. In the folder the file has the name.
    ///
    /// # Errors
    ///
    /// As [`GradientWriter::open`], and those of `check`.
    pub fn open_checked(
        stored: StoredType,
        (folder, name): (&Path, &str),
        key: &RunKey,
        samples: usize,
        blocks: &[Block],
        check: &mut Check<'_>,
    ) -> io::Result<Self> {
        let mut key = key.clone();
        if stored != StoredType::F32 {
            key.0.insert("type of the numbers".to_owned(), stored.name().to_owned());
        }
        let hidden = |ending| folder.join(format!(".{name}.{ending}"));
        let (placed, record) = (folder.join(name), hidden("done"));
        let at = |path, journal, file, log, placed| Self {
            path,
            journal,
            file,
            log,
            stored,
            blocks: blocks.to_vec(),
            starts: Vec::new(),
            losses: vec![None; samples],
            batches: HashSet::new(),
            found: Resumption::default(),
            placed,
            synced: Instant::now(),
        };
        let sides = blocks.iter().map(|b| (b.name.clone(), b.rows, b.cols)).collect();
        let begin = Begin::new(&key, samples, sides);
        let mut of_placed = Resumption::default();
        if record.is_file()
            && placed.is_file()
            && let (Ok(file), Ok(log)) = (open_own(&placed), open_own(&record))
        {
            let mut writer = at(placed, record, file, log, true);
            if writer.adopt(&begin, check)? {
                return Ok(writer);
            }
            of_placed.restarted = writer.found.restarted.take();
        }
        let (path, journal) = (hidden("part"), hidden("journal"));
        let log = open_own(&journal)?;
        log.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another run is writing it"),
            TryLockError::Error(error) => error,
        })?;
        let mut writer = at(path.clone(), journal, open_own(&path)?, log, false);
        writer.resume(&begin, check)?;
        if writer.found == Resumption::default() {
            writer.found = of_placed;
        }
        Ok(writer)
    }

    /// Whether a placed file is that of this run, whole and intact.
    fn adopt(&mut self, begin: &Begin, check: &mut Check<'_>) -> io::Result<bool> {
        let (header, starts, length) = header(&self.blocks, self.losses.len(), self.stored);
        self.starts = starts;
        let batches = match journal::read(&mut self.log, begin)? {
            Found::Batches(batches, _) => batches,
            Found::Useless(restart) => {
                self.found.restarted = Some(restart);
                return Ok(false);
            }
            Found::Nothing => return Ok(false),
        };
        if self.file.metadata()?.len() != length || !self.has_header(&header) {
            return Ok(false);
        }
        self.verify(batches, check)?;
        self.found.samples = self.losses.iter().flatten().count();
        Ok(self.losses.iter().all(Option::is_some))
    }

    /// Takes what is intact of an earlier run, and prepares both files for the rest.
    fn resume(&mut self, begin: &Begin, check: &mut Check<'_>) -> io::Result<()> {
        let (header, starts, length) = header(&self.blocks, self.losses.len(), self.stored);
        self.starts = starts;
        match journal::read(&mut self.log, begin)? {
            Found::Batches(batches, damaged) => {
                self.found.damaged = damaged;
                if !self.has_header(&header) {
                    self.found.header = true;
                    self.file.seek(SeekFrom::Start(0))?;
                    self.file.write_all(&header)?;
                }
                self.verify(batches, check)?;
                if self.file.metadata()?.len() != length {
                    self.file.set_len(length)?;
                }
                // A rewritten part of the file must not be younger than a journal that vouches for it.
                self.file.sync_all()?;
            }
            found => {
                if let Found::Useless(restart) = found {
                    self.found.restarted = Some(restart);
                }
                self.log.set_len(0)?;
                self.log.seek(SeekFrom::Start(0))?;
                self.file.set_len(0)?;
                self.file.seek(SeekFrom::Start(0))?;
                self.file.write_all(&header)?;
                self.file.set_len(length)?;
                self.file.sync_all()?;
                journal::append(&mut self.log, begin)?;
                sync_folder(folder_of(&self.path));
            }
        }
        self.found.samples = self.losses.iter().flatten().count();
        Ok(())
    }

    fn has_header(&mut self, header: &[u8]) -> bool {
        let mut there = vec![0; header.len()];
        journal::fill(&mut self.file, 0, &mut there) && there == header
    }

    /// Takes the recorded batches whose hash is that of the file.
    fn verify(&mut self, batches: Vec<Done>, check: &mut Check<'_>) -> io::Result<()> {
        // Another process may have another working folder.
        let (path, stored, samples) = (absolute(&self.path)?, self.stored, self.losses.len());
        let sides = self.blocks.iter().zip(&self.starts).map(|(block, &start)| (start, block.parameters()));
        let recorded = RecordedBatches { path, stored, samples, sides: sides.collect(), batches };
        let intact = check(&recorded)?;
        for (Done { samples, losses, .. }, intact) in recorded.batches.into_iter().zip(intact) {
            if intact {
                for (&sample, &loss) in samples.iter().zip(&losses) {
                    self.losses[sample] = Some(f64::from_bits(loss));
                }
                self.batches.insert(samples);
            } else {
                self.found.damaged += 1;
            }
        }
        Ok(())
    }

    /// The path of the file while it is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was found of an earlier run.
    pub fn found(&self) -> &Resumption {
        &self.found
    }

    /// Whether the file holds a sample's gradients.
    ///
    /// # Panics
    ///
    /// If there is no such sample.
    pub fn has(&self, sample: usize) -> bool {
        self.losses[sample].is_some()
    }

    /// Whether the file holds the gradients of exactly these samples, computed together in this order.
    ///
    /// The last bits of a sample's gradients may depend on its batch, so a run that is to equal an undisturbed one
    /// takes over whole batches only.
    pub fn has_batch(&self, samples: &[usize]) -> bool {
        self.batches.contains(samples)
    }

    /// The samples' losses; `None` where the gradients are missing.
    pub fn losses(&self) -> &[Option<f64>] {
        &self.losses
    }

    /// Writes the gradients of some samples: for each block `[samples, rows, cols]`, row by row.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or a number is too large for its type.
    ///
    /// # Panics
    ///
    /// If there are not as many losses as samples, or numbers as the blocks have, or there is no such sample; then
    /// nothing is written.
    pub fn write(&mut self, samples: &[usize], losses: &[f64], blocks: &[Vec<f32>]) -> io::Result<()> {
        assert_eq!((samples.len(), self.blocks.len()), (losses.len(), blocks.len()), "one loss per sample, all blocks");
        // A sample too many would overwrite the first one of the next block.
        let total = self.losses.len();
        assert!(samples.iter().all(|&sample| sample < total), "samples {samples:?} of {total}");
        let expected = self.blocks.iter().map(|block| samples.len() * block.parameters());
        assert!(expected.eq(blocks.iter().map(Vec::len)), "one number per parameter and sample");
        self.write_batch(samples, losses, blocks).map_err(|error| self.no_room(error))
    }

    fn write_batch(&mut self, samples: &[usize], losses: &[f64], blocks: &[Vec<f32>]) -> io::Result<()> {
        let bits: Vec<u64> = losses.iter().map(|loss| loss.to_bits()).collect();
        let mut hash = BatchHash::new(samples, &bits);
        for ((block, start), values) in self.blocks.iter().zip(&self.starts).zip(blocks) {
            let parameters = block.parameters();
            for (sample, values) in samples.iter().zip(values.chunks(parameters)) {
                let bytes = self.stored.encode(values).map_err(|value| {
                    let (name, stored) = (&block.name, self.stored.name());
                    let message = format!("the gradient {value:e} in block `{name}` does not fit {stored}");
                    io::Error::new(io::ErrorKind::InvalidData, message)
                })?;
                self.file.seek(SeekFrom::Start(start + (sample * bytes.len()) as u64))?;
                hash.add(&bytes);
                self.file.write_all(&bytes)?;
            }
        }
        // A process that is killed loses nothing that is written, and a machine that stops what is not synced: lines of
        // the journal that are ahead of the file do not count then. Syncing every small batch would cost most of its time.
        if self.synced.elapsed() >= SYNC {
            self.sync()?;
        }
        journal::append(&mut self.log, &Done { samples: samples.to_vec(), losses: bits, xxh3_128: hash.text() })?;
        for (&sample, &loss) in samples.iter().zip(losses) {
            self.losses[sample] = Some(loss);
        }
        self.batches.insert(samples.to_vec());
        Ok(())
    }

    /// Waits until everything that was written is on disk; [`GradientWriter::write`] does so once a second.
    ///
    /// # Errors
    ///
    /// If it cannot be written: some file systems find out only now that a disk is full.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| self.no_room(error))?;
        self.synced = Instant::now();
        Ok(())
    }

    /// An error; that of a full disk with the bytes of the samples that are missing.
    fn no_room(&self, error: io::Error) -> io::Error {
        let row: usize = self.blocks.iter().map(|block| block.parameters() * self.stored.bytes()).sum();
        let missing = self.losses.iter().filter(|loss| loss.is_none()).count();
        with_room(error, &self.path, Some((missing * row) as u64))
    }

    /// Whether the file is there already: an earlier run with the same key has placed it.
    pub fn is_placed(&self, path: &Path) -> bool {
        self.placed && path == self.path
    }

    /// Moves the whole file to its final place, and its journal next to it: a hidden file `.NAME.done`.
    ///
    /// # Errors
    ///
    /// If a sample is missing, whose gradients would read as zeros, or the file cannot be moved. The hidden files stay.
    pub fn place(mut self, path: &Path) -> io::Result<()> {
        self.check_whole()?;
        if self.is_placed(path) {
            return Ok(());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let record = path.with_file_name(format!(".{name}.done"));
        self.file.sync_all()?;
        self.log.sync_all()?;
        if self.placed {
            fs::copy(&self.path, path)?;
            fs::copy(&self.journal, record)?;
        } else {
            self.log = journal::put_in_order(&mut self.log, &self.journal, &self.batches)?;
            // A record without its file is not looked at.
            fs::rename(&self.path, path)?;
            fs::rename(&self.journal, record)?;
        }
        sync_folder(folder_of(path));
        Ok(())
    }

    fn check_whole(&self) -> io::Result<()> {
        let missing = self.losses.iter().filter(|loss| loss.is_none()).count();
        if missing == 0 {
            return Ok(());
        }
        let message = format!("the gradients of {missing} of {} samples are missing", self.losses.len());
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }

    /// The whole file and its journal, on disk, under their hidden names.
    pub(crate) fn into_whole(self) -> io::Result<(PathBuf, PathBuf)> {
        self.check_whole()?;
        self.file.sync_all()?;
        Ok((self.path, self.journal))
    }

    /// Removes the file and its journal; a file that an earlier run placed stays.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn discard(self) -> io::Result<()> {
        if self.placed {
            return Ok(());
        }
        // Without its journal a file is begun again; a journal without its file would look like damage.
        fs::remove_file(&self.journal)?;
        fs::remove_file(&self.path)
    }
}

/// The header of the file, the first byte of each block, and the file's length.
fn header(blocks: &[Block], samples: usize, stored: StoredType) -> (Vec<u8>, Vec<u64>, u64) {
    let mut tensors = std::collections::BTreeMap::new();
    let (mut end, mut starts) = (0, Vec::with_capacity(blocks.len()));
    for block in blocks {
        let start = end;
        end += (samples * block.parameters() * stored.bytes()) as u64;
        starts.push(start);
        let shape = [samples, block.rows, block.cols];
        let info = json!({ "dtype": stored.dtype().to_string(), "shape": shape, "data_offsets": [start, end] });
        tensors.insert(block.name.clone(), info);
    }
    let mut json = json!(tensors).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    let begin = (ALIGNMENT + json.len()) as u64;
    let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
    (header, starts.into_iter().map(|start| begin + start).collect(), begin + end)
}
