use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::optimizer::{Flat, Optimizer, add, clip, norm, on_device};
use super::pieces::{Piece, PieceTeam, SharedStep, piece_of};
use crate::ModelError;
use crate::error::check;
use crate::files::weights::{Selection, read};

/// What takes the steps of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum OptimizerChoice {
    /// AdamW (Loshchilov & Hutter 2019) with decay rates .9 and .999 and epsilon 1e-8.
    #[default]
    AdamW,
    /// Stochastic gradient descent: the velocity is `momentum` times the earlier one plus the gradient, and a step goes
    /// against it. Weight decay is decoupled, as AdamW's.
    Sgd {
        /// The share of the velocity that a step keeps, 0 ≤ m < 1.
        momentum: f64,
    },
}

/// The settings of training, whose learning rate rises linearly and then falls linearly.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `learning_rate` | 1e-3 | peak of the schedule | finite, > 0 |
/// | `warmup` | 0.1 | share of the steps before the peak | 0 ≤ w < 1 |
/// | `optimizer` | AdamW | what takes the steps | |
/// | `weight_decay` | 0.01 | decoupled decay of trained weights | finite, ≥ 0 |
/// | `epochs` | 3 | passes over the samples | ≥ 1 |
/// | `batch_size` | 32 | samples per step | ≥ 1 |
/// | `by_length` | true | whether samples of similar length share a batch: less padding, less random batches | |
/// | `seed` | 0 | seed of the order of samples, and of dropout | |
///
/// A value outside its range is a [`ModelError::Setting`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainConfig {
    /// The peak of the schedule.
    pub learning_rate: f64,
    /// The share of the steps before the peak.
    pub warmup: f64,
    /// What takes the steps.
    pub optimizer: OptimizerChoice,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Passes over the samples.
    pub epochs: usize,
    /// Samples per step.
    pub batch_size: usize,
    /// Whether samples of similar length share a batch. Where length and class go together, such a batch holds one
    /// class.
    pub by_length: bool,
    /// The seed of the order of samples, and of dropout.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            warmup: 0.1,
            optimizer: OptimizerChoice::AdamW,
            weight_decay: 0.01,
            epochs: 3,
            batch_size: 32,
            by_length: true,
            seed: 0,
        }
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
        if let OptimizerChoice::Sgd { momentum } = self.optimizer {
            check((0.0..1.0).contains(&momentum), "momentum", momentum, "at least 0 and below 1")?;
        }
        check(self.epochs >= 1, "epochs", self.epochs as f64, "at least 1")?;
        check(self.batch_size >= 1, "batch_size", self.batch_size as f64, "at least 1")
    }

    /// The number of steps of a run over this many samples.
    pub fn steps(&self, samples: usize) -> usize {
        self.epochs * samples.div_ceil(self.batch_size)
    }

    /// The batches of the first epoch, by the numbers of the samples; those of others differ in what is random.
    pub fn batches(&self, lengths: &[usize]) -> Vec<Vec<usize>> {
        epoch_batches(lengths, self, &mut StdRng::seed_from_u64(self.seed))
    }

    /// The learning rate of a step, counted from 0.
    ///
    /// With `w = ⌈warmup · steps⌉`, it is `peak · (step + 1)/w` for steps below `w`, then
    /// `peak · (steps − step)/(steps − w)`. No step has rate 0.
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

/// The progress of a training run, after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The pass over the samples, from 0.
    pub epoch: usize,
    /// The step, from 0.
    pub step: usize,
    /// The number of steps of the run, unless it stops early.
    pub steps: usize,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The mean loss of its batch, before the step.
    pub loss: f64,
    /// The total length of the samples in its batch, without padding.
    pub tokens: usize,
    /// The time since the run began or resumed.
    pub elapsed: Duration,
    /// The mean loss on the validation samples, if there was an evaluation after this step.
    pub validation: Option<f64>,
}

/// Trains the parameters of a module that are not frozen, and returns the module as `valid()`.
///
/// `lengths[i]` is the length of sample `i`, by which batches are formed. `losses(module, rows)` returns the losses of
/// these samples, any number of values; their mean is minimised. `progress` is called after every step. Frozen
/// parameters cost no gradient.
///
/// Equal seeds give equal models on one machine. Dropout draws from the devices' generators, which are seeded before
/// every piece of a step; with dropout, equality holds only if nothing else draws from them.
///
/// # Errors
///
/// If the configuration is invalid, there are no samples, every parameter is frozen, a loss or gradient is not finite,
/// or `losses` fails.
pub fn train<M: Module>(
    module: M,
    lengths: &[usize],
    config: &TrainConfig,
    losses: impl FnMut(&M, &[usize]) -> Result<Tensor<1>, ModelError>,
    mut progress: impl FnMut(&Progress),
) -> Result<M, ModelError> {
    let run = Run { lengths, config, micro_batch: None, clip_norm: None, weights: None, team: None };
    let state = run.go(State::new(module, config), losses, |_, after| {
        progress(after);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(state.module.valid())
}

/// The state of a run after a step. All randomness follows from the seed and the step.
pub(crate) struct State<M> {
    /// The module, with its gradients tracked.
    pub(crate) module: M,
    pub(crate) optimizer: Optimizer,
    /// The steps taken.
    pub(crate) step: usize,
}

impl<M: Module> State<M> {
    pub(crate) fn new(module: M, config: &TrainConfig) -> Self {
        Self::of(module, config.optimizer, config.weight_decay)
    }

    pub(crate) fn of(module: M, choice: OptimizerChoice, weight_decay: f32) -> Self {
        Self { module: module.train(), optimizer: Optimizer::new(choice, weight_decay), step: 0 }
    }
}

/// A step that was taken.
pub(crate) struct Advanced {
    /// The mean loss of its batch before it.
    pub(crate) loss: f64,
    /// The gradients of that, before clipping.
    pub(crate) gradients: Flat,
    /// Their norm over all parameters.
    pub(crate) norm: f64,
}

/// The training loop.
pub(crate) struct Run<'a> {
    pub(crate) lengths: &'a [usize],
    pub(crate) config: &'a TrainConfig,
    /// Samples per forward and backward pass; if none, the whole batch.
    pub(crate) micro_batch: Option<usize>,
    /// The largest norm of a step's gradient over all parameters.
    pub(crate) clip_norm: Option<f64>,
    /// The weight of each sample's loss; if none, 1.
    pub(crate) weights: Option<&'a [f64]>,
    /// Processes that share the pieces of a batch.
    pub(crate) team: Option<&'a dyn PieceTeam>,
}

impl Run<'_> {
    /// Trains from a state to the last step, or until `after`, called after every step, breaks off.
    pub(crate) fn go<M: Module>(
        &self,
        mut state: State<M>,
        mut losses: impl FnMut(&M, &[usize]) -> Result<Tensor<1>, ModelError>,
        mut after: impl FnMut(&mut State<M>, &mut Progress) -> Result<ControlFlow<()>, ModelError>,
    ) -> Result<State<M>, ModelError> {
        self.config.validate()?;
        if self.lengths.is_empty() {
            return Err(ModelError::Empty { what: "samples to train on" });
        }
        let began = Instant::now();
        let steps = self.steps();
        for (step, (epoch, rows)) in self.batches().enumerate().skip(state.step) {
            let learning_rate = self.config.learning_rate_at(step, steps);
            let loss = self.advance(&mut state, &rows, &mut losses)?.loss;
            let tokens = rows.iter().map(|&row| self.lengths[row]).sum();
            let elapsed = began.elapsed();
            let mut progress = Progress { epoch, step, steps, learning_rate, loss, tokens, elapsed, validation: None };
            if after(&mut state, &mut progress)?.is_break() {
                break;
            }
        }
        Ok(state)
    }

    /// The steps of the whole run.
    pub(crate) fn steps(&self) -> usize {
        self.config.steps(self.lengths.len())
    }

    /// The epoch and the samples of each step.
    pub(crate) fn batches(&self) -> impl Iterator<Item = (usize, Vec<usize>)> {
        let (lengths, config) = (self.lengths, self.config);
        let mut order = StdRng::seed_from_u64(config.seed);
        (0..config.epochs).flat_map(move |epoch| {
            epoch_batches(lengths, config, &mut order).into_iter().map(move |rows| (epoch, rows))
        })
    }

    /// The seed of a step.
    pub(crate) fn seed(&self, step: usize) -> u64 {
        self.config.seed.wrapping_add(step as u64)
    }

    /// The next step, on these samples.
    pub(crate) fn advance<M: Module>(
        &self,
        state: &mut State<M>,
        rows: &[usize],
        losses: &mut impl FnMut(&M, &[usize]) -> Result<Tensor<1>, ModelError>,
    ) -> Result<Advanced, ModelError> {
        let step = state.step;
        let learning_rate = self.config.learning_rate_at(step, self.steps());
        let (loss, gradients) = self.gradients(&state.module, rows, self.seed(step), losses)?;
        if !loss.is_finite() {
            return Err(ModelError::Diverged { step, value: loss, learning_rate });
        }
        // A gradient that is not finite shows in the next loss, but the last step has none.
        let norm = norm(&gradients)?;
        if !norm.is_finite() {
            return Err(ModelError::GradientDiverged { step, norm, learning_rate });
        }
        let clipped = match self.clip_norm {
            Some(limit) => clip(gradients.clone(), norm, limit),
            None => gradients.clone(),
        };
        // A copy shares its tensors; the old values go with the old module.
        state.module = state.optimizer.step(learning_rate, state.module.clone(), clipped);
        state.step = step + 1;
        Ok(Advanced { loss, gradients, norm })
    }

    /// The mean loss of a batch and its gradients, computed piece by piece. If the loss is not finite, there are no
    /// gradients.
    pub(crate) fn gradients<M: Module>(
        &self,
        module: &M,
        rows: &[usize],
        seed: u64,
        losses: &mut impl FnMut(&M, &[usize]) -> Result<Tensor<1>, ModelError>,
    ) -> Result<(f64, Flat), ModelError> {
        let (mut loss, mut sum) = (0.0, Flat::new());
        let pieces: Vec<&[usize]> = rows.chunks(self.micro_batch.unwrap_or(rows.len())).collect();
        let mut losses = |module: &M, rows: &[usize]| self.weighted(losses(module, rows)?, rows);
        let mut own = |place: usize| piece_of(module, (pieces[place], rows.len()), seed, place, &mut losses);
        let Some(team) = self.team.filter(|_| pieces.len() > 1) else {
            for place in 0..pieces.len() {
                let (part, gradients) = own(place)?;
                loss += part;
                if !loss.is_finite() {
                    return Ok((loss, Flat::new()));
                }
                add(&mut sum, gradients);
            }
            return Ok((loss, sum));
        };
        let parameters = read(module, Selection::Trained)?;
        let step = SharedStep { seed, parameters, pieces: pieces.iter().map(|piece| piece.to_vec()).collect() };
        let all = team.share(step, &mut |place| {
            let (loss, gradients) = own(place)?;
            Piece::new(loss, gradients)
        })?;
        let device = module.devices().into_iter().next().ok_or(ModelError::Frozen)?;
        for Piece { loss: part, gradients } in all {
            loss += part;
            add(&mut sum, gradients.into_iter().map(|(path, data)| (path, on_device(data, &device))).collect());
        }
        if loss.is_finite() { Ok((loss, sum)) } else { Ok((loss, Flat::new())) }
    }
}

impl Run<'_> {
    /// The losses of samples times their weights.
    fn weighted(&self, losses: Tensor<1>, rows: &[usize]) -> Result<Tensor<1>, ModelError> {
        let Some(weights) = self.weights else { return Ok(losses) };
        let [found] = losses.dims();
        let all = rows.iter().map(|&row| weights.get(row).copied()).collect::<Option<Vec<f64>>>();
        let of_rows = all.filter(|_| found == rows.len());
        let of_rows = of_rows.ok_or(ModelError::Weights { weights: weights.len(), samples: self.lengths.len() })?;
        let place = (&losses.device(), losses.dtype());
        Ok(losses * Tensor::from_data(TensorData::new(of_rows, [found]), place))
    }
}

/// The number of batches sorted by length together: enough to save padding, few enough to stay random.
const BUCKET: usize = 8;

/// The batches of one epoch, in random order and, if configured, of samples of similar length.
fn epoch_batches(lengths: &[usize], config: &TrainConfig, rng: &mut impl Rng) -> Vec<Vec<usize>> {
    let batch_size = config.batch_size;
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(rng);
    if !config.by_length {
        return order.chunks(batch_size).map(<[usize]>::to_vec).collect();
    }
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

pub(crate) fn read_scalar(value: Tensor<1>) -> Result<f64, ModelError> {
    let data = value.without_autodiff().try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
    data.iter::<f64>().next().ok_or(ModelError::Empty { what: "losses in a batch" })
}
