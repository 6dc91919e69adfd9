//! Checkpoints: files with the state of a training run, from which it continues bit for bit.
//!
//! A file holds the trained parameters (`parameter/PATH`), the optimizer's moments (`moment_1/PATH`, `moment_2/PATH`) and the
//! parameters of the best evaluation (`best/PATH`). The header holds the steps taken, the optimizer's step counts, the best
//! evaluation, the fingerprint of the run, and a hash of all of this. Random numbers follow from the seed and the step.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::finetune::{BestState, Evaluation};
use super::fingerprint::Fingerprint;
use super::optimizer::{Moments, on_device};
use super::train::State;
use crate::files::weights::{Selection, read, write};
use crate::files::whole::{remove_partial, write_whole};
use crate::{ModelError, read_regular};

/// Where and how often a training run is saved.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `folder` | | holds `step-00000100.safetensors` and so on; created with the first of them | |
/// | `every` | 100 | steps between checkpoints; a run that is stopped writes one anyway | ≥ 1 |
/// | `keep` | 2 | number of newest checkpoints to keep | ≥ 1 |
/// | `resume` | false | whether to continue from the newest intact checkpoint, if any | |
/// | `record` | false | whether all are kept, with one before the first step, for a [`Recording`](crate::Recording) | |
/// | `settings` | empty | other settings that the run depends on | |
///
/// Without `resume`, a folder that already holds checkpoints is an error, so that a wrong path overwrites none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// The folder.
    pub folder: PathBuf,
    /// Steps between checkpoints.
    pub every: usize,
    /// The number of newest checkpoints to keep.
    pub keep: usize,
    /// Whether to continue from the newest intact checkpoint, if any.
    pub resume: bool,
    /// Whether all are kept, whatever `keep` says, with one before the first step: what a
    /// [`Recording`](crate::Recording) is made of.
    pub record: bool,
    /// Settings by name that change what the model computes but are not weights, such as the scale of its adapters.
    /// A checkpoint of a run with other settings is refused, as for the values of
    /// [`FinetuneConfig`](crate::FinetuneConfig).
    pub settings: BTreeMap<String, String>,
}

/// The checkpoints that a run may continue from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundCheckpoints {
    /// The steps taken at the newest intact one, and its file.
    pub newest: Option<(usize, PathBuf)>,
    /// Damaged ones newer than that, and why each is; they were set aside as `step-….damaged`.
    pub damaged: Vec<(PathBuf, String)>,
}

/// The contents of a checkpoint.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    header: Header,
    pub(super) tensors: BTreeMap<String, TensorData>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Header {
    version: u32,
    step: usize,
    /// The optimizer's step count of each parameter.
    counts: BTreeMap<String, usize>,
    best_steps: Option<usize>,
    /// The bits of the best loss, because decimal text may round it.
    best_loss: Option<u64>,
    stale: usize,
}

const VERSION: u32 = 2;
/// The entry of the file's metadata.
const ENTRY: &str = "hyperinf_checkpoint";

/// That entry: everything but the tensors, and a hash of everything.
#[derive(Serialize, Deserialize)]
struct Entry {
    state: Header,
    run: Fingerprint,
    xxh3_128: String,
}

impl Checkpoint {
    pub(crate) fn of<M: Module>(state: &State<M>, best: &BestState) -> Result<Self, ModelError> {
        let mut tensors = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for (path, data) in read(&state.module, Selection::Trained)? {
            tensors.insert(format!("parameter/{path}"), data);
        }
        for (path, Moments { first, second, time }) in &state.optimizer.states {
            counts.insert(path.clone(), *time);
            let moments = [("moment_1", Some(first)), ("moment_2", second.as_ref())];
            for (name, moment) in moments.into_iter().filter_map(|(name, moment)| Some((name, moment?))) {
                let data = moment.clone().try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
                tensors.insert(format!("{name}/{path}"), data);
            }
        }
        for (path, data) in &best.values {
            tensors.insert(format!("best/{path}"), data.clone());
        }
        let header = Header {
            version: VERSION,
            step: state.step,
            counts,
            best_steps: best.evaluation.map(|best| best.steps),
            best_loss: best.evaluation.map(|best| best.loss.to_bits()),
            stale: best.stale,
        };
        Ok(Self { header, tensors })
    }

    /// The steps taken.
    pub(super) fn step(&self) -> usize {
        self.header.step
    }

    /// The optimizer's step count of each parameter.
    pub(super) fn counts(&self) -> &BTreeMap<String, usize> {
        &self.header.counts
    }

    /// A state without a best evaluation.
    pub(super) fn plain(step: usize, counts: BTreeMap<String, usize>, tensors: BTreeMap<String, TensorData>) -> Self {
        let header = Header { version: VERSION, step, counts, best_steps: None, best_loss: None, stale: 0 };
        Self { header, tensors }
    }

    /// The state of a run, from a fresh state of the same run.
    pub(crate) fn into_state<M: Module>(self, fresh: State<M>) -> Result<(State<M>, BestState), ModelError> {
        let mut groups: BTreeMap<String, BTreeMap<String, TensorData>> = BTreeMap::new();
        for (name, data) in self.tensors {
            if let Some((group, path)) = name.split_once('/') {
                groups.entry(group.to_owned()).or_default().insert(path.to_owned(), data);
            }
        }
        let mut group = |name: &str| groups.remove(name).unwrap_or_default();
        let (parameters, best) = (group("parameter"), group("best"));
        let (mut first, mut second) = (group("moment_1"), group("moment_2"));
        let device = fresh.module.devices().into_iter().next();
        let device = device.ok_or(ModelError::Empty { what: "parameters of the model" })?.without_autodiff();
        let mut optimizer = fresh.optimizer;
        for (path, time) in self.header.counts {
            let (first, second) = (first.remove(&path), second.remove(&path));
            let Some(first) = first.filter(|_| second.is_some() || !optimizer.has_second()) else {
                return Err(ModelError::WeightNames { missing: vec![path], unused: Vec::new() });
            };
            let moment = |data| on_device::<1>(data, &device);
            optimizer.states.insert(path, Moments { first: moment(first), second: second.map(moment), time });
        }
        let evaluation = self.header.best_steps.zip(self.header.best_loss);
        let evaluation = evaluation.map(|(steps, loss)| Evaluation { steps, loss: f64::from_bits(loss) });
        let state =
            State { module: write(fresh.module, parameters, Selection::Trained)?, optimizer, step: self.header.step };
        Ok((state, BestState { evaluation, values: best, stale: self.header.stale }))
    }
}

impl Checkpoints {
    /// Checkpoints in this folder, with the defaults of the other fields.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), every: 100, keep: 2, resume: false, record: false, settings: BTreeMap::new() }
    }

    /// Finds the newest intact checkpoint. Damaged ones that are newer are set aside under another name.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read or a file in it not be renamed.
    pub fn find(&self) -> Result<FoundCheckpoints, ModelError> {
        Ok(self.newest()?.0)
    }

    fn newest(&self) -> Result<(FoundCheckpoints, Option<Stored>), ModelError> {
        let mut found = FoundCheckpoints::default();
        if self.record {
            return self.newest_of_recording();
        }
        for (step, path) in self.list()?.into_iter().rev() {
            match Self::stored(&path) {
                Ok(stored) => {
                    found.newest = Some((step, path));
                    return Ok((found, Some(stored)));
                }
                Err(reason) => found.damaged.push(set_aside(path, reason)?),
            }
        }
        Ok((found, None))
    }

    /// The newest that has all before it: where one of a recording is missing or damaged, the run takes its steps again.
    fn newest_of_recording(&self) -> Result<(FoundCheckpoints, Option<Stored>), ModelError> {
        let (mut found, mut newest, mut next) = (FoundCheckpoints::default(), None, 0);
        for (step, path) in self.list()? {
            if step > next {
                break;
            }
            match Self::stored(&path) {
                Ok(stored) => {
                    next = if step == next { step + self.every } else { next };
                    (found.newest, newest) = (Some((step, path)), Some(stored));
                }
                Err(reason) => found.damaged.push(set_aside(path, reason)?),
            }
        }
        Ok((found, newest))
    }

    fn stored(path: &Path) -> Result<Stored, String> {
        read_regular(path).map_err(|e| e.to_string()).and_then(|bytes| parse(&bytes))
    }

    /// The state after so many steps, and the run that it belongs to.
    pub(super) fn at(&self, step: usize) -> Result<(Checkpoint, Fingerprint), ModelError> {
        let path = self.file(step);
        Self::stored(&path).map_err(|reason| failed(&path, reason))
    }

    fn file(&self, step: usize) -> PathBuf {
        self.folder.join(format!("step-{step:08}.safetensors"))
    }

    /// Reads the newest intact checkpoint if the run is to continue from one.
    pub(crate) fn open(&self, run: impl FnOnce() -> Result<Fingerprint, ModelError>) -> Result<Opened, ModelError> {
        if !self.resume {
            return match self.list()?.pop() {
                Some((step, path)) => Err(ModelError::CheckpointExists { path, step }),
                None => Ok(None),
            };
        }
        let (FoundCheckpoints { newest: Some((_, path)), .. }, Some((saved, fingerprint))) = self.newest()? else {
            return Ok(None);
        };
        let run = run()?;
        let differences = fingerprint.differences(&run);
        if !differences.is_empty() {
            return Err(ModelError::CheckpointDiffers { path, differences });
        }
        Ok(Some((saved, run)))
    }

    /// Writes a checkpoint under a temporary name, renames it, and removes those that are too old.
    pub(crate) fn write(&self, saved: &Checkpoint, run: &Fingerprint) -> Result<PathBuf, ModelError> {
        let unwritten = |path: &Path, source| ModelError::CheckpointWrite { path: path.to_owned(), source };
        fs::create_dir_all(&self.folder).map_err(|e| unwritten(&self.folder, e))?;
        // What an interrupted run left half-written has the name of its process.
        remove_partial(&self.folder, "step-");
        let path = self.file(saved.header.step);
        let bytes = compose(saved, run).map_err(|reason| failed(&path, reason))?;
        write_whole(&[(path.clone(), bytes)]).map_err(|(path, e)| unwritten(&path, e))?;
        let all = if self.record { Vec::new() } else { self.list()? };
        for (_, old) in &all[..all.len().saturating_sub(self.keep)] {
            fs::remove_file(old).map_err(|e| unwritten(old, e))?;
        }
        Ok(path)
    }

    /// The checkpoints in the folder with their steps, the newest last.
    fn list(&self) -> Result<Vec<(usize, PathBuf)>, ModelError> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
            entries => entries.map_err(|e| failed(&self.folder, e))?,
        };
        for entry in entries {
            let path = entry.map_err(|e| failed(&self.folder, e))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let step = name.and_then(|name| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok());
            found.extend(step.map(|step| (step, path)));
        }
        found.sort();
        Ok(found)
    }
}

/// Whether a path has the name of a file that [`Checkpoints`] write: a checkpoint, whole, half-written or set aside.
pub fn is_checkpoint(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let step = name.trim_start_matches('.').strip_prefix("step-");
    step.is_some_and(|step| [".safetensors", ".damaged", ".partial"].iter().any(|ending| step.ends_with(ending)))
}

/// A checkpoint and the run that it belongs to.
type Stored = (Checkpoint, Fingerprint);
/// The checkpoint that a run continues from, if any, and the run.
type Opened = Option<Stored>;

/// Renames a damaged checkpoint.
fn set_aside(path: PathBuf, reason: String) -> Result<(PathBuf, String), ModelError> {
    fs::rename(&path, path.with_extension("damaged")).map_err(|e| failed(&path, e))?;
    Ok((path, reason))
}

fn failed(path: &Path, reason: impl ToString) -> ModelError {
    ModelError::Checkpoint { path: path.to_owned(), reason: reason.to_string() }
}

pub(super) const TYPES: [(DType, Dtype); 4] =
    [(DType::F64, Dtype::F64), (DType::F32, Dtype::F32), (DType::F16, Dtype::F16), (DType::BF16, Dtype::BF16)];

fn compose(saved: &Checkpoint, run: &Fingerprint) -> Result<Vec<u8>, String> {
    let mut views = Vec::with_capacity(saved.tensors.len());
    for (name, data) in &saved.tensors {
        let (_, dtype) = TYPES
            .into_iter()
            .find(|(dtype, _)| *dtype == data.dtype())
            .ok_or_else(|| format!("`{name}` is of type {:?}", data.dtype()))?;
        let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes()).map_err(|e| e.to_string())?;
        views.push((name, view));
    }
    let (state, run) = (saved.header.clone(), run.clone());
    let xxh3_128 = hash(&saved.tensors, &state, &run).map_err(|e| e.to_string())?;
    let entry = serde_json::to_string(&Entry { state, run, xxh3_128 }).map_err(|e| e.to_string())?;
    // One entry only: their order would be random.
    safetensors::serialize(views, Some(HashMap::from([(ENTRY.to_owned(), entry)]))).map_err(|e| e.to_string())
}

/// The hash of everything in a checkpoint.
fn hash(
    tensors: &BTreeMap<String, TensorData>,
    state: &Header,
    run: &Fingerprint,
) -> Result<String, serde_json::Error> {
    let mut hash = XxHash3_128::new();
    hash.write(&serde_json::to_vec(&(state, run))?);
    for (name, data) in tensors {
        hash.write(format!("{name} {:?} {:?}\n", data.dtype(), data.shape()).as_bytes());
        hash.write(data.as_bytes());
    }
    Ok(format!("{:032x}", hash.finish_128()))
}

fn parse(bytes: &[u8]) -> Result<Stored, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let entry = metadata.metadata().as_ref().and_then(|entries| entries.get(ENTRY));
    let entry = entry.ok_or_else(|| format!("its header has no `{ENTRY}`"))?;
    let Entry { state: header, run, xxh3_128 } = serde_json::from_str(entry).map_err(|e| e.to_string())?;
    if header.version != VERSION {
        return Err(format!("it has version {}, this program reads {VERSION}", header.version));
    }
    let mut tensors = BTreeMap::new();
    for (name, view) in SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?.iter() {
        let (dtype, _) = TYPES
            .into_iter()
            .find(|(_, dtype)| *dtype == view.dtype())
            .ok_or_else(|| format!("`{name}` is of type {:?}", view.dtype()))?;
        tensors.insert(name.to_owned(), TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype));
    }
    if hash(&tensors, &header, &run).map_err(|e| e.to_string())? != xxh3_128 {
        return Err("its numbers are not those that were written".to_owned());
    }
    Ok((Checkpoint { header, tensors }, run))
}
