use crate::TruthError;

/// The training of the perceptron.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `optimizer` | SGD, momentum 0.9 | | |
/// | `learning_rate` | 0.05 | the rate of every step | finite, > 0 |
/// | `weight_decay` | 1e-3 | SGD: added to the gradient, times the weight; AdamW: decoupled | finite, ≥ 0 |
/// | `batch_size` | 32 | samples per step | ≥ 1 |
/// | `length` | 30 epochs | when to stop | ≥ 1 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// The optimiser.
    pub optimizer: Optimizer,
    /// The learning rate, constant.
    pub learning_rate: f64,
    /// The decay of the weights and biases.
    pub weight_decay: f64,
    /// Samples per step; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// When to stop.
    pub length: Length,
}

/// The optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// `m ← momentum · m + g; w ← w − rate · m`.
    Sgd {
        /// The share of the last step that is kept, in [0, 1).
        momentum: f64,
    },
    /// AdamW with the rates .9 and .999, ε = 1e-8 (Loshchilov and Hutter 2019).
    AdamW,
}

/// The length of the training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Passes over the samples: fewer samples, fewer steps.
    Epochs(usize),
    /// Steps, however many samples there are.
    Steps(usize),
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::Sgd { momentum: 0.9 },
            learning_rate: 0.05,
            weight_decay: 1e-3,
            batch_size: 32,
            length: Length::Epochs(30),
        }
    }
}

impl Recipe {
    /// The number of steps when training on that many samples.
    pub fn steps(&self, samples: usize) -> usize {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => epochs * samples.div_ceil(self.batch_size.max(1)),
        }
    }

    /// Fails if a field is out of range.
    ///
    /// # Errors
    ///
    /// [`TruthError::Setting`] with the field and its range.
    pub fn validate(&self) -> Result<(), TruthError> {
        let Self { optimizer, learning_rate, weight_decay, batch_size, length } = *self;
        let length = match length {
            Length::Epochs(count) | Length::Steps(count) => count,
        };
        let momentum = match optimizer {
            Optimizer::Sgd { momentum } => momentum,
            Optimizer::AdamW => 0.0,
        };
        let checks = [
            ("learning_rate", learning_rate, learning_rate > 0.0 && learning_rate.is_finite(), "positive and finite"),
            ("weight_decay", weight_decay, weight_decay >= 0.0 && weight_decay.is_finite(), "finite, at least 0"),
            ("momentum", momentum, (0.0..1.0).contains(&momentum), "at least 0 and below 1"),
            ("batch_size", batch_size as f64, batch_size > 0, "at least 1"),
            ("length", length as f64, length > 0, "at least 1"),
        ];
        match checks.into_iter().find(|(_, _, valid, _)| !valid) {
            None => Ok(()),
            Some((name, value, _, expected)) => Err(TruthError::Setting { name, expected: expected.into(), value }),
        }
    }
}

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.optimizer {
            Optimizer::Sgd { momentum } => write!(f, "sgd {momentum}")?,
            Optimizer::AdamW => write!(f, "adamw")?,
        }
        write!(f, ", rate {}, decay {}, batches of {}, ", self.learning_rate, self.weight_decay, self.batch_size)?;
        match self.length {
            Length::Epochs(epochs) => write!(f, "{epochs} epochs"),
            Length::Steps(steps) => write!(f, "{steps} steps"),
        }
    }
}
