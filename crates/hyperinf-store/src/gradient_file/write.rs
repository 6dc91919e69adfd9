use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use hyperinf_gradients::Block;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The header's length is a multiple of this many bytes, so that the numbers are aligned for any reader.
const ALIGNMENT: usize = 8;

/// A file of gradients being written, sample by sample in any order, and resumable after an interruption.
///
/// The file has its final size from the start; a journal next to it records which samples it holds. Both are hidden
/// files until [`GradientWriter::place`] or [`GradientWriter::discard`].
pub struct GradientWriter {
    part: PathBuf,
    journal: PathBuf,
    file: File,
    log: File,
    blocks: Vec<Block>,
    /// The first byte of each block's numbers.
    starts: Vec<u64>,
    losses: Vec<Option<f64>>,
}

/// The first line of a journal.
#[derive(PartialEq, Serialize, Deserialize)]
struct Begin {
    key: String,
    samples: usize,
    blocks: Vec<(String, usize, usize)>,
}

/// A line of a journal: samples whose gradients are in the file.
#[derive(Serialize, Deserialize)]
struct Done {
    samples: Vec<usize>,
    losses: Vec<f64>,
}

impl GradientWriter {
    /// Resumes what a run with the same key, samples and blocks left in the folder, or starts from nothing.
    ///
    /// # Errors
    ///
    /// If the files cannot be created or read, or another process is writing them.
    pub fn open(folder: &Path, name: &str, key: &str, samples: usize, blocks: &[Block]) -> io::Result<Self> {
        let part = folder.join(format!(".{name}.part"));
        let journal = folder.join(format!(".{name}.journal"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut log = options.open(&journal)?;
        log.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another run is writing it"),
            TryLockError::Error(error) => error,
        })?;
        let mut file = options.open(&part)?;
        let sides = blocks.iter().map(|b| (b.name.clone(), b.rows, b.cols)).collect();
        let begin = Begin { key: key.to_owned(), samples, blocks: sides };
        let (header, starts, length) = header(blocks, samples);
        let mut losses = vec![None; samples];
        let kept = if file.metadata()?.len() == length { read_journal(&mut log, &begin, &mut losses)? } else { 0 };
        log.set_len(kept)?;
        log.seek(SeekFrom::End(0))?;
        if kept == 0 {
            file.set_len(0)?;
            file.write_all(&header)?;
            file.set_len(length)?;
            // The first line of the journal vouches for the header.
            file.sync_all()?;
            append(&mut log, &begin)?;
        }
        Ok(Self { part, journal, file, log, blocks: blocks.to_vec(), starts, losses })
    }

    /// The path of the file while it is written.
    pub fn path(&self) -> &Path {
        &self.part
    }

    /// Whether the file holds a sample's gradients.
    ///
    /// # Panics
    ///
    /// If there is no such sample.
    pub fn has(&self, sample: usize) -> bool {
        self.losses[sample].is_some()
    }

    /// The samples' losses; `None` where the gradients are missing.
    pub fn losses(&self) -> &[Option<f64>] {
        &self.losses
    }

    /// Writes the gradients of some samples: for each block `[samples, rows, cols]`, row by row.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
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
        for ((block, start), values) in self.blocks.iter().zip(&self.starts).zip(blocks) {
            let parameters = block.parameters();
            for (sample, values) in samples.iter().zip(values.chunks(parameters)) {
                self.file.seek(SeekFrom::Start(start + (sample * parameters * size_of::<f32>()) as u64))?;
                self.file.write_all(&little_endian(values))?;
            }
        }
        // The journal must not be ahead of the file, not even if the machine stops.
        self.file.sync_data()?;
        append(&mut self.log, &Done { samples: samples.to_vec(), losses: losses.to_vec() })?;
        for (&sample, &loss) in samples.iter().zip(losses) {
            self.losses[sample] = Some(loss);
        }
        Ok(())
    }

    /// Moves the whole file to its final place.
    ///
    /// # Errors
    ///
    /// If a sample is missing, whose gradients would read as zeros, or the file cannot be moved. The hidden files stay.
    pub fn place(self, path: &Path) -> io::Result<()> {
        let missing = self.losses.iter().filter(|loss| loss.is_none()).count();
        if missing > 0 {
            let message = format!("the gradients of {missing} of {} samples are missing", self.losses.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        fs::rename(&self.part, path)?;
        fs::remove_file(&self.journal)
    }

    /// Removes the file and its journal.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.part)?;
        fs::remove_file(&self.journal)
    }
}

/// Reads the journal, if it is of the same run, and returns the length of its complete lines.
fn read_journal(log: &mut File, begin: &Begin, losses: &mut [Option<f64>]) -> io::Result<u64> {
    let mut lines = BufReader::new(log);
    // Bytes, not text: a machine that stopped may leave anything.
    let mut line = Vec::new();
    let mut whole = lines.read_until(b'\n', &mut line)? as u64;
    if serde_json::from_slice::<Begin>(&line).ok().as_ref() != Some(begin) {
        return Ok(0);
    }
    loop {
        line.clear();
        let length = lines.read_until(b'\n', &mut line)? as u64;
        // The last line may have been cut off.
        let Ok(Done { samples, losses: found }) = serde_json::from_slice(&line) else { return Ok(whole) };
        if !line.ends_with(b"\n") || samples.len() != found.len() || samples.iter().any(|&s| s >= losses.len()) {
            return Ok(whole);
        }
        for (sample, loss) in samples.into_iter().zip(found) {
            losses[sample] = Some(loss);
        }
        whole += length;
    }
}

fn append(log: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    log.write_all(&line)
}

/// The header of the file, the first byte of each block, and the file's length.
fn header(blocks: &[Block], samples: usize) -> (Vec<u8>, Vec<u64>, u64) {
    let mut tensors = Map::new();
    let (mut end, mut starts) = (0, Vec::with_capacity(blocks.len()));
    for block in blocks {
        let start = end;
        end += (samples * block.parameters() * size_of::<f32>()) as u64;
        starts.push(start);
        let shape = [samples, block.rows, block.cols];
        let info = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
        tensors.insert(block.name.clone(), info);
    }
    let mut json = Value::Object(tensors).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    let begin = (ALIGNMENT + json.len()) as u64;
    let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
    (header, starts.into_iter().map(|start| begin + start).collect(), begin + end)
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    let mut bytes = bytemuck::cast_slice(values).to_vec();
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size_of::<f32>()).for_each(<[u8]>::reverse);
    }
    bytes
}
