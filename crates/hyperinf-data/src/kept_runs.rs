//! Scores of several methods for the same rows, kept until they are asked for again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_models::Recording;
use hyperinf_store::{Staged, StoreError, WriteError};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::RunError;
use crate::compared::{AnyMethod, MethodRun, NamedMethod};
use crate::crew_work::settings;
use crate::run::Run;
use crate::run_of_kind::{GENERATION, device_name};

/// Bytes of a file that are hashed at once.
const PART: usize = 1 << 20;

/// A folder with one file for each method's scores, under a name that is the hash of everything that they depend on: the
/// recorded training, the adapter, both files of rows, the settings and the device. What is not intact counts as not
/// there.
pub(crate) struct KeptRuns {
    folder: PathBuf,
    /// The hash of what all methods depend on.
    key: String,
}

/// The scores of a method. Real numbers are their bits, which decimal text may round.
#[derive(Serialize, Deserialize)]
struct Line {
    method: String,
    scores: Vec<Vec<String>>,
    seconds: String,
    bytes: u64,
    residual: Option<String>,
    converged: bool,
    /// Of the fields before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    xxh3_128: String,
}

impl KeptRuns {
    /// `None` for an adapter without a recording, for rows with images, which are in files of their own, and where a file
    /// cannot be read: then the run says so.
    ///
    /// # Errors
    ///
    /// If the model's files cannot be found.
    pub(crate) fn open(folder: &Path, run: &Run, device: &Device) -> Result<Option<Self>, RunError> {
        let files = run.files()?;
        let Some(adapter) = &run.adapter else { return Ok(None) };
        if files.kind().has_images() || !run.ensemble.is_empty() || run.index.is_some() {
            return Ok(None);
        }
        let Ok(recording) = Recording::open(&adapter.join(Recording::FILE)) else { return Ok(None) };
        let settings = format!(
            "{}/{GENERATION} {} {:?} {} {:?} {:?} {:?} {:?} {:?} {:?} {} {:?} {:?}",
            env!("CARGO_PKG_VERSION"),
            files.model_fingerprint(),
            recording.settings(),
            device_name(run, device),
            run.tokenizer,
            run.read,
            run.length,
            run.layers,
            run.large_blocks,
            (&run.diffusion, &run.pairs),
            run.batch_size,
            run.blocks,
            run.options.query,
        );
        // A metric's folder and a tokenizer's have files like an adapter's.
        let folders = [Some(adapter), run.metric.as_ref(), run.tokenizer.as_ref()].into_iter().flatten();
        let inputs = [&run.train, &run.query].into_iter().chain(folders);
        let Ok(contents) = inputs.map(|path| contents(path)).collect::<io::Result<Vec<_>>>() else { return Ok(None) };
        Ok(Some(Self { folder: folder.to_owned(), key: hash(format!("{settings} {contents:?}").as_bytes()) }))
    }

    /// The scores of a method; `None` if they are not there.
    pub(crate) fn get(&self, run: &Run, named: &NamedMethod, seed: u64) -> Option<MethodRun> {
        let line: Line = serde_json::from_slice(&fs::read(self.path(run, named, seed)).ok()?).ok()?;
        let seal = line.xxh3_128.clone();
        let line = Line { xxh3_128: String::new(), ..line };
        if seal != hash(serde_json::to_string(&line).ok()?.as_bytes()) {
            return None;
        }
        let row = |row: &Vec<String>| row.iter().map(|text| number(text)).collect::<Option<Vec<f64>>>();
        let scores = line.scores.iter().map(row).collect::<Option<Vec<_>>>()?;
        let residual = line.residual.as_ref().map(|residual| number(residual).ok_or(())).transpose().ok()?;
        let (seconds, Line { bytes, converged, .. }) = (number(&line.seconds)?, line);
        Some(MethodRun { name: named.name.clone(), scores: Ok(scores), seconds, bytes, residual, converged })
    }

    /// Keeps the scores of a method; those that could not be computed are tried again.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(crate) fn keep(&self, run: &Run, named: &NamedMethod, seed: u64, found: &MethodRun) -> Result<(), RunError> {
        let Ok(scores) = &found.scores else { return Ok(()) };
        let MethodRun { seconds, bytes, residual, converged, .. } = *found;
        let mut line = Line {
            method: found.name.clone(),
            scores: scores.iter().map(|row| row.iter().map(bits).collect()).collect(),
            seconds: bits(&seconds),
            bytes,
            residual: residual.as_ref().map(bits),
            converged,
            xxh3_128: String::new(),
        };
        let path = self.path(run, named, seed);
        let text = |line: &Line| {
            serde_json::to_string(line).map_err(|error| StoreError::output(&path, io::Error::other(error)))
        };
        line.xxh3_128 = hash(text(&line)?.as_bytes());
        let text = text(&line)?;
        fs::create_dir_all(&self.folder).map_err(|source| StoreError::output(&self.folder, source))?;
        let write = |file: &mut fs::File| writeln!(file, "{text}").map_err(WriteError::Io);
        Ok(Staged::new(&path, write)?.place()?)
    }

    fn path(&self, run: &Run, NamedMethod { name, method }: &NamedMethod, seed: u64) -> PathBuf {
        let how = match method {
            AnyMethod::Rows(rows) => format!("{rows:?} {}", settings(run)),
            AnyMethod::Gradients { options, estimate, refine } => {
                settings(&Run { options: (**options).clone(), estimate: *estimate, refine: *refine, ..run.clone() })
            }
        };
        let hash = hash(format!("{} {name} {how} {seed}", self.key).as_bytes());
        self.folder.join(format!("scores-{hash}.json"))
    }
}

/// The hashes of a file, or of all files of a folder.
fn contents(path: &Path) -> io::Result<Vec<u128>> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        files.retain(|path| path.is_file());
        files.sort();
    }
    let hash = |path: &PathBuf| {
        let (mut hasher, mut file, mut part) = (XxHash3_128::new(), File::open(path)?, vec![0; PART]);
        loop {
            match file.read(&mut part)? {
                0 => return Ok(hasher.finish_128()),
                count => hasher.write(&part[..count]),
            }
        }
    };
    files.iter().map(hash).collect()
}

fn bits(value: &f64) -> String {
    format!("{:016x}", value.to_bits())
}

fn number(bits: &str) -> Option<f64> {
    u64::from_str_radix(bits, 16).map(f64::from_bits).ok()
}

fn hash(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}
