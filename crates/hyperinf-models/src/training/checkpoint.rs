//! Checkpoints: files with the state of a training run, from which it continues bit for bit.
//!
//! A file holds the trained parameters (`parameter/PATH`), AdamW's moments (`moment_1/PATH`, `moment_2/PATH`) and the
//! parameters of the best evaluation (`best/PATH`). The header holds the steps taken, AdamW's step counts, the best
//! evaluation and the fingerprint of the run. Random numbers follow from the seed and the step.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{AdamWState, AdaptiveMomentumState};
use burn::tensor::{DType, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::finetune::{BestState, Evaluation};
use super::optimizer::on_device;
use super::train::State;
use crate::files::weights::{Selection, read, write};
use crate::{FinetuneConfig, ModelError, SampleModel};

/// Where and how often a training run is saved.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `folder` | | holds `step-00000100.safetensors` and so on; created if necessary | |
/// | `every` | 100 | steps between checkpoints | ≥ 1 |
/// | `keep` | 2 | number of newest checkpoints to keep | ≥ 1 |
/// | `resume` | false | whether to continue from the newest checkpoint, if any | |
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
    /// Whether to continue from the newest checkpoint, if any.
    pub resume: bool,
    /// Settings by name that change what the model computes but are not weights, such as the scale of its adapters.
    /// A checkpoint of a run with other settings is refused, as for the values of [`FinetuneConfig`].
    pub settings: BTreeMap<String, String>,
}

/// A difference between a checkpoint's run and the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDifference {
    /// The setting or data set that differs.
    pub what: String,
    /// The checkpoint's value, or the digest of its data.
    pub checkpoint: String,
    /// The current run's value, or the digest of its data.
    pub run: String,
}

impl std::fmt::Display for RunDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} was {}, is {}", self.what, self.checkpoint, self.run)
    }
}

/// Everything that determines a run, as text.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    pub(crate) fn of<M: SampleModel>(
        module: &M,
        train: &[M::Sample],
        validation: Option<&[M::Sample]>,
        config: &FinetuneConfig,
    ) -> Result<Self, ModelError> {
        let FinetuneConfig { schedule, micro_batch, clip_norm, evaluate_every, patience, checkpoints } = config;
        let mut base = Fnv::default();
        for (path, data) in read(module, Selection::Frozen)? {
            path.hash(&mut base);
            base.words(&data);
        }
        let number = |value: &Option<usize>| value.map_or("none".into(), |value| value.to_string());
        let fields = [
            ("learning_rate", schedule.learning_rate.to_string()),
            ("warmup", schedule.warmup.to_string()),
            ("weight_decay", schedule.weight_decay.to_string()),
            ("epochs", schedule.epochs.to_string()),
            ("batch_size", schedule.batch_size.to_string()),
            ("by_length", schedule.by_length.to_string()),
            ("seed", schedule.seed.to_string()),
            ("micro_batch", number(micro_batch)),
            ("clip_norm", clip_norm.map_or("none".into(), |value| value.to_string())),
            ("evaluate_every", number(evaluate_every)),
            ("patience", number(patience)),
            ("frozen weights", base.text()),
            ("training samples", digest(train)),
            ("validation samples", validation.map_or("none".into(), digest)),
        ];
        let mut all = checkpoints.as_ref().map_or_else(BTreeMap::new, |checkpoints| checkpoints.settings.clone());
        all.extend(fields.map(|(what, value)| (what.to_owned(), value)));
        Ok(Self(all))
    }

    /// The differences of `self`, the checkpoint's fingerprint, from the run's.
    fn differences(&self, run: &Self) -> Vec<RunDifference> {
        let absent = || "absent".to_owned();
        let all: BTreeMap<&String, ()> = self.0.keys().chain(run.0.keys()).map(|what| (what, ())).collect();
        all.into_keys()
            .filter(|what| self.0.get(*what) != run.0.get(*what))
            .map(|what| RunDifference {
                what: what.clone(),
                checkpoint: self.0.get(what).cloned().unwrap_or_else(absent),
                run: run.0.get(what).cloned().unwrap_or_else(absent),
            })
            .collect()
    }
}

fn digest<S: Hash>(samples: &[S]) -> String {
    let mut hasher = Fnv::default();
    samples.hash(&mut hasher);
    format!("{} with digest {}", samples.len(), hasher.text())
}

/// FNV-1a with 64 bits. Unlike the standard library's hasher it never changes between releases.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// Hashes eight bytes at a time, for speed: weights are large.
    fn words(&mut self, data: &TensorData) {
        data.shape().to_vec().hash(self);
        for chunk in data.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
            self.0 ^= self.0 >> 32;
        }
    }

    fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.mix(u64::from(byte)));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The contents of a checkpoint.
pub(crate) struct Checkpoint {
    header: Header,
    tensors: BTreeMap<String, TensorData>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    step: usize,
    /// AdamW's step count of each parameter.
    counts: BTreeMap<String, usize>,
    best_steps: Option<usize>,
    /// The bits of the best loss, because decimal text may round it.
    best_loss: Option<u64>,
    stale: usize,
}

const VERSION: u32 = 1;

impl Checkpoint {
    pub(crate) fn of<M: Module>(state: &State<M>, best: &BestState) -> Result<Self, ModelError> {
        let mut tensors = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for (path, data) in read(&state.module, Selection::Trained)? {
            tensors.insert(format!("parameter/{path}"), data);
        }
        for (path, AdamWState { momentum }) in &state.optimizer.states {
            counts.insert(path.clone(), momentum.time);
            for (name, moment) in [("moment_1", &momentum.moment_1), ("moment_2", &momentum.moment_2)] {
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
            let (Some(first), Some(second)) = (first.remove(&path), second.remove(&path)) else {
                return Err(ModelError::WeightNames { missing: vec![path], unused: Vec::new() });
            };
            let moment = |data| on_device::<1>(data, &device);
            let momentum = AdaptiveMomentumState::new(time, moment(first), moment(second));
            optimizer.states.insert(path, AdamWState { momentum });
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
        Self { folder: folder.into(), every: 100, keep: 2, resume: false, settings: BTreeMap::new() }
    }

    /// Creates the folder, and reads the newest checkpoint if the run is to continue from one.
    pub(crate) fn open(&self, run: &Fingerprint) -> Result<Option<Checkpoint>, ModelError> {
        fs::create_dir_all(&self.folder).map_err(|e| failed(&self.folder, e))?;
        let Some((step, path)) = self.list()?.pop() else { return Ok(None) };
        if !self.resume {
            return Err(ModelError::CheckpointExists { path, step });
        }
        let bytes = fs::read(&path).map_err(|e| failed(&path, e))?;
        let (saved, fingerprint) = parse(&bytes).map_err(|reason| failed(&path, reason))?;
        let differences = fingerprint.differences(run);
        if !differences.is_empty() {
            return Err(ModelError::CheckpointDiffers { path, differences });
        }
        Ok(Some(saved))
    }

    /// Writes a checkpoint under a temporary name, renames it, and removes those that are too old.
    pub(crate) fn write(&self, saved: &Checkpoint, run: &Fingerprint) -> Result<(), ModelError> {
        let path = self.folder.join(format!("step-{:08}.safetensors", saved.header.step));
        let temporary = path.with_extension(format!("{}.partial", std::process::id()));
        let bytes = compose(saved, run).map_err(|reason| failed(&path, reason))?;
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &path));
        if let Err(e) = written {
            // The error to report is that of writing.
            let _ = fs::remove_file(&temporary);
            return Err(failed(&path, e));
        }
        let all = self.list()?;
        for (_, old) in &all[..all.len().saturating_sub(self.keep)] {
            fs::remove_file(old).map_err(|e| failed(old, e))?;
        }
        Ok(())
    }

    /// The checkpoints in the folder with their steps, the newest last.
    fn list(&self) -> Result<Vec<(usize, PathBuf)>, ModelError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|e| failed(&self.folder, e))? {
            let path = entry.map_err(|e| failed(&self.folder, e))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let step = name.and_then(|name| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok());
            found.extend(step.map(|step| (step, path)));
        }
        found.sort();
        Ok(found)
    }
}

fn failed(path: &Path, reason: impl ToString) -> ModelError {
    ModelError::Checkpoint { path: path.to_owned(), reason: reason.to_string() }
}

const TYPES: [(DType, Dtype); 4] =
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
    let json = |what: Result<String, serde_json::Error>| what.map_err(|e| e.to_string());
    let metadata = HashMap::from([
        ("hyperinf_checkpoint".to_owned(), json(serde_json::to_string(&saved.header))?),
        ("hyperinf_run".to_owned(), json(serde_json::to_string(run))?),
    ]);
    safetensors::serialize(views, Some(metadata)).map_err(|e| e.to_string())
}

fn parse(bytes: &[u8]) -> Result<(Checkpoint, Fingerprint), String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let entry = |name: &str| {
        let entries = metadata.metadata().as_ref();
        entries.and_then(|entries| entries.get(name)).ok_or_else(|| format!("its header has no `{name}`"))
    };
    let header: Header = serde_json::from_str(entry("hyperinf_checkpoint")?).map_err(|e| e.to_string())?;
    if header.version != VERSION {
        return Err(format!("it has version {}, this program reads {VERSION}", header.version));
    }
    let fingerprint = serde_json::from_str(entry("hyperinf_run")?).map_err(|e| e.to_string())?;
    let mut tensors = BTreeMap::new();
    for (name, view) in SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?.iter() {
        let (dtype, _) = TYPES
            .into_iter()
            .find(|(_, dtype)| *dtype == view.dtype())
            .ok_or_else(|| format!("`{name}` is of type {:?}", view.dtype()))?;
        tensors.insert(name.to_owned(), TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype));
    }
    Ok((Checkpoint { header, tensors }, fingerprint))
}
