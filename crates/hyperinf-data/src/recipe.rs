use hyperinf_models::{OptimizerChoice, TrainConfig};

/// The recipe of a fine-tuning.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `learning_rate` | classifiers 2e-3, language models 2e-4, diffusion models 1e-3 | peak of the schedule | finite, > 0 |
/// | `epochs` | 3, diffusion models 10 | passes over the rows | ≥ 1 |
/// | `batch_size` | classifiers and diffusion models 16, language models 32 | rows per step | ≥ 1 |
/// | `warmup` | 0.1 | share of the steps before the peak | 0 ≤ w < 1 |
/// | `optimizer` | AdamW | what takes the steps | |
/// | `weight_decay` | 0.01 | decoupled decay of trained weights | finite, ≥ 0 |
/// | `by_length` | true | whether rows of similar length share a batch | |
/// | `seed` | 0 | seed of everything random | |
///
/// `None` is the default of the kind of model. A new head of a classifier starts from nothing: with the rate that suits
/// a language model the loss of 500 to 5,000 rows stays where it began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// The peak of the schedule.
    pub learning_rate: Option<f64>,
    /// Passes over the rows.
    pub epochs: Option<usize>,
    /// Rows per step.
    pub batch_size: Option<usize>,
    /// The share of the steps before the peak.
    pub warmup: f64,
    /// What takes the steps.
    pub optimizer: OptimizerChoice,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Whether rows of similar length share a batch.
    pub by_length: bool,
    /// The seed of new weights, of the order of the rows and of dropout.
    pub seed: u64,
}

impl Default for Recipe {
    fn default() -> Self {
        let TrainConfig { warmup, optimizer, weight_decay, by_length, seed, .. } = TrainConfig::default();
        Self { learning_rate: None, epochs: None, batch_size: None, warmup, optimizer, weight_decay, by_length, seed }
    }
}

impl Recipe {
    /// The schedule, where `usual` has the defaults of the kind of model.
    pub fn schedule(&self, usual: &TrainConfig) -> TrainConfig {
        let Self { learning_rate, epochs, batch_size, warmup, optimizer, weight_decay, by_length, seed } = *self;
        TrainConfig {
            learning_rate: learning_rate.unwrap_or(usual.learning_rate),
            epochs: epochs.unwrap_or(usual.epochs),
            batch_size: batch_size.unwrap_or(usual.batch_size),
            warmup,
            optimizer,
            weight_decay,
            by_length,
            seed,
        }
    }
}
