//! What determines a training run, to tell whether two runs are the same.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use crate::files::weights::{Selection, read};
use crate::{FinetuneConfig, ModelError, SampleModel};

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

    /// All of it in one short text.
    fn digest(&self) -> String {
        let mut hasher = Fnv::default();
        self.0.hash(&mut hasher);
        hasher.text()
    }

    /// The differences of `self`, the checkpoint's fingerprint, from the run's.
    pub(crate) fn differences(&self, run: &Self) -> Vec<RunDifference> {
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

/// A digest of everything that determines a training run: runs with equal digests end with the same parameters.
///
/// # Errors
///
/// If the device fails.
pub fn training_digest<M: SampleModel>(
    model: &M,
    train: &[M::Sample],
    validation: Option<&[M::Sample]>,
    config: &FinetuneConfig,
) -> Result<String, ModelError> {
    Ok(Fingerprint::of(model, train, validation, config)?.digest())
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
