//! What determines a training run, to tell whether two runs are the same.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use crate::files::weights::{Selection, read};
use crate::{FinetuneConfig, ModelError, OptimizerChoice, SampleModel, TrainConfig};

/// The entry of the weights of losses; absent if there are none.
const WEIGHTS: &str = "weights";
/// That of gradient descent; AdamW has none.
const MOMENTUM: &str = "momentum of SGD";

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
        let FinetuneConfig { schedule, micro_batch, clip_norm, evaluate_every, patience, weights, checkpoints } =
            config;
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
        let optimizer = match schedule.optimizer {
            // As before there was a choice.
            OptimizerChoice::AdamW => None,
            OptimizerChoice::Sgd { momentum } => Some(momentum.to_string()),
        };
        let mut all = checkpoints.as_ref().map_or_else(BTreeMap::new, |checkpoints| checkpoints.settings.clone());
        all.extend(fields.map(|(what, value)| (what.to_owned(), value)));
        all.extend(optimizer.map(|momentum| (MOMENTUM.to_owned(), momentum)));
        if let Some(weights) = weights {
            let bits: Vec<u64> = weights.iter().map(|weight| weight.to_bits()).collect();
            all.insert(WEIGHTS.to_owned(), digest(&bits));
        }
        Ok(Self(all))
    }

    /// What it says.
    pub(crate) fn settings(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The settings of the steps, as they were.
    pub(crate) fn config(&self) -> Result<FinetuneConfig, String> {
        fn of<T: std::str::FromStr>(all: &BTreeMap<String, String>, what: &str) -> Result<T, String> {
            let text = all.get(what).ok_or_else(|| format!("it does not say `{what}`"))?;
            text.parse().map_err(|_| format!("its `{what}` is `{text}`"))
        }
        fn optional<T: std::str::FromStr>(all: &BTreeMap<String, String>, what: &str) -> Result<Option<T>, String> {
            if all.get(what).is_some_and(|text| text == "none") { Ok(None) } else { of(all, what).map(Some) }
        }
        let all = &self.0;
        let optimizer = match all.contains_key(MOMENTUM) {
            true => OptimizerChoice::Sgd { momentum: of(all, MOMENTUM)? },
            false => OptimizerChoice::AdamW,
        };
        let schedule = TrainConfig {
            optimizer,
            learning_rate: of(all, "learning_rate")?,
            warmup: of(all, "warmup")?,
            weight_decay: of(all, "weight_decay")?,
            epochs: of(all, "epochs")?,
            batch_size: of(all, "batch_size")?,
            by_length: of(all, "by_length")?,
            seed: of(all, "seed")?,
        };
        let (micro_batch, clip_norm) = (optional(all, "micro_batch")?, optional(all, "clip_norm")?);
        Ok(FinetuneConfig { schedule, micro_batch, clip_norm, ..FinetuneConfig::default() })
    }

    /// The differences of `self`, a recording's, from a run's in what decides the steps.
    pub(crate) fn differences_of_steps(&self, run: &Self) -> Vec<RunDifference> {
        // Which of the steps is kept is no matter of the steps.
        const OTHER: [&str; 3] = ["validation samples", "evaluate_every", "patience"];
        let mut found = self.differences(run);
        let always = |what: &str| [WEIGHTS, MOMENTUM].contains(&what);
        let decides = |what: &str| (run.0.contains_key(what) || always(what)) && !OTHER.contains(&what);
        found.retain(|difference| decides(&difference.what));
        found
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
