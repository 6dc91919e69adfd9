use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Tensor;
use hyperinf_gradients::{Tape, Task};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::error::check;
use crate::{EncoderClassifier, ModelError, Sample, TextModel};

/// How a model is trained: AdamW, the learning rate rising linearly and then falling linearly.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `learning_rate` | 1e-3 | the peak of the schedule | finite, > 0 |
/// | `warmup` | 0.1 | share of the steps before the peak | 0 ≤ w < 1 |
/// | `weight_decay` | 0.01 | decoupled decay of trained weights | finite, ≥ 0 |
/// | `epochs` | 3 | passes over the samples | ≥ 1 |
/// | `batch_size` | 32 | samples per step | ≥ 1 |
/// | `seed` | 0 | order of the samples; dropout | |
///
/// A value outside its range is a [`ModelError::Setting`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainConfig {
    /// The peak of the schedule.
    pub learning_rate: f64,
    /// The share of the steps before the peak.
    pub warmup: f64,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Passes over the samples.
    pub epochs: usize,
    /// Samples per step.
    pub batch_size: usize,
    /// Decides the order of the samples, and dropout.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-3, warmup: 0.1, weight_decay: 0.01, epochs: 3, batch_size: 32, seed: 0 }
    }
}

impl TrainConfig {
    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        let rate = self.learning_rate;
        check(rate.is_finite() && rate > 0.0, "learning_rate", rate, "positive and finite")?;
        check((0.0..1.0).contains(&self.warmup), "warmup", self.warmup, "at least 0 and below 1")?;
        let decay = self.weight_decay;
        check(decay.is_finite() && decay >= 0.0, "weight_decay", f64::from(decay), "finite and not negative")?;
        check(self.epochs >= 1, "epochs", self.epochs as f64, "at least 1")?;
        check(self.batch_size >= 1, "batch_size", self.batch_size as f64, "at least 1")
    }

    /// The learning rate of a step, counted from 0.
    ///
    /// With `w = ⌈warmup · steps⌉`: `peak · (step + 1)/w` below `w`, then `peak · (steps − step)/(steps − w)`; no
    /// step has rate 0.
    ///
    /// # Panics
    ///
    /// If `step` is not below `steps`.
    pub fn learning_rate_at(&self, step: usize, steps: usize) -> f64 {
        assert!(step < steps, "step {step} of {steps}");
        let rise = ((self.warmup * steps as f64).ceil() as usize).min(steps - 1);
        let share =
            if step < rise { (step + 1) as f64 / rise as f64 } else { (steps - step) as f64 / (steps - rise) as f64 };
        self.learning_rate * share
    }
}

/// Where a training run stands, after each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The pass over the samples, from 0.
    pub epoch: usize,
    /// The step just taken, from 0.
    pub step: usize,
    /// All steps of the run.
    pub steps: usize,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The mean loss of its batch, before the step.
    pub loss: f64,
}

/// Trains whatever parameters of a module are not frozen and returns the module as `valid()`.
///
/// `lengths[i]` is the number of positions of sample `i`: samples of similar length share a batch, so that little
/// is padded. `losses(module, rows)` gives the losses of those samples, of any number; their mean is minimised.
/// Frozen parameters cost no gradient. The devices' own generators are seeded too, for dropout. Equal seeds give
/// equal models on one machine; with dropout this holds only while nothing else draws random numbers from the
/// device.
///
/// # Errors
///
/// If the configuration is invalid, there are no samples, every parameter is frozen, a loss is not finite, or
/// `losses` fails.
pub fn train<M: Module>(
    module: M,
    lengths: &[usize],
    config: &TrainConfig,
    mut losses: impl FnMut(&M, &[usize]) -> Result<Tensor<1>, ModelError>,
    mut progress: impl FnMut(&Progress),
) -> Result<M, ModelError> {
    config.validate()?;
    if lengths.is_empty() {
        return Err(ModelError::Empty { what: "samples to train on" });
    }
    for device in module.devices() {
        device.seed(config.seed);
    }
    let mut module = module.train();
    let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(config.weight_decay).init();
    let mut rng = StdRng::seed_from_u64(config.seed);
    let steps = config.epochs * lengths.len().div_ceil(config.batch_size);
    let mut step = 0;
    for epoch in 0..config.epochs {
        for rows in epoch_batches(lengths, config.batch_size, &mut rng) {
            let learning_rate = config.learning_rate_at(step, steps);
            let mean = losses(&module, &rows)?.mean();
            if !mean.is_tracked() {
                return Err(ModelError::Frozen);
            }
            let loss = read_scalar(mean.clone())?;
            if !loss.is_finite() {
                return Err(ModelError::Diverged { step, value: loss, learning_rate });
            }
            let gradients = GradientsParams::from_grads(mean.backward(), &module);
            module = optimizer.step(learning_rate, module, gradients);
            progress(&Progress { epoch, step, steps, learning_rate, loss });
            step += 1;
        }
    }
    Ok(module.valid())
}

/// [`train`] for a classifier: the frozen parts of the model (see [`crate::adapt`]) stay as they are.
///
/// # Errors
///
/// As [`train`], and if a sample does not fit the model.
pub fn finetune(
    model: EncoderClassifier,
    samples: &[Sample],
    config: &TrainConfig,
    progress: impl FnMut(&Progress),
) -> Result<EncoderClassifier, ModelError> {
    let lengths: Vec<usize> = samples.iter().map(|s| s.tokens.len()).collect();
    let losses = |model: &EncoderClassifier, rows: &[usize]| {
        let batch = model.collate(&rows.iter().map(|&row| &samples[row]).collect::<Vec<_>>())?;
        Ok(model.loss(model.forward(&batch, &mut Tape::off()), &batch))
    };
    train(model, lengths.as_slice(), config, losses, progress)
}

/// How many batches are sorted by length together: enough to save padding, few enough to stay random.
const BUCKET: usize = 8;

/// The samples of one epoch in random order, in batches of similar length.
fn epoch_batches(lengths: &[usize], batch_size: usize, rng: &mut impl Rng) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(rng);
    let mut batches: Vec<Vec<usize>> = order
        .chunks_mut(batch_size * BUCKET)
        .flat_map(|bucket| {
            bucket.sort_by_key(|&row| lengths[row]);
            bucket.chunks(batch_size).map(<[usize]>::to_vec).collect::<Vec<_>>()
        })
        .collect();
    batches.shuffle(rng);
    batches
}

fn read_scalar(value: Tensor<1>) -> Result<f64, ModelError> {
    let data = value.without_autodiff().try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
    data.iter::<f64>().next().ok_or(ModelError::Empty { what: "losses in a batch" })
}
