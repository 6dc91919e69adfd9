//! Optimizers on the trained parameters of a module, by their paths.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};

use super::train::OptimizerChoice;
use crate::ModelError;
use crate::arch::parameters::{Change, map_parameters, visit_parameters};

/// The flattened gradients of the trained parameters, by path.
pub(crate) type Flat = BTreeMap<String, Tensor<1>>;

/// The decay rates of the two moments, and what is added to the root of the second. Burn takes them in f32, whatever the
/// parameters' type.
const BETA_1: f32 = 0.9;
pub(super) const BETA_2: f32 = 0.999;
pub(super) const EPSILON: f32 = 1e-8;

/// An optimizer and its state of each parameter.
pub(crate) struct Optimizer {
    kind: Kind,
    pub(crate) states: BTreeMap<String, Moments>,
}

enum Kind {
    AdamW(AdamW),
    Sgd { momentum: f64, weight_decay: f64 },
}

/// What an optimizer keeps of a parameter: AdamW's two moments, or a velocity; and the steps that they hold.
#[derive(Clone)]
pub(crate) struct Moments {
    pub(crate) first: Tensor<1>,
    pub(crate) second: Option<Tensor<1>>,
    pub(crate) time: usize,
}

impl Optimizer {
    pub(crate) fn new(choice: OptimizerChoice, weight_decay: f32) -> Self {
        let kind = match choice {
            OptimizerChoice::AdamW => Kind::AdamW(
                AdamWConfig::new()
                    .with_beta_1(BETA_1)
                    .with_beta_2(BETA_2)
                    .with_epsilon(EPSILON)
                    .with_weight_decay(weight_decay)
                    .build(),
            ),
            OptimizerChoice::Sgd { momentum } => Kind::Sgd { momentum, weight_decay: f64::from(weight_decay) },
        };
        Self { kind, states: BTreeMap::new() }
    }

    /// Whether there is a second moment of each parameter.
    pub(crate) fn has_second(&self) -> bool {
        matches!(self.kind, Kind::AdamW(_))
    }

    /// One step for every parameter that has a gradient.
    pub(crate) fn step<M: Module>(&mut self, learning_rate: f64, module: M, mut gradients: Flat) -> M {
        map_parameters(module, |parameter| {
            let Some(gradient) = gradients.remove(&parameter.path) else { return Change::Keep };
            let state = self.states.remove(&parameter.path);
            // Steps are taken entry by entry, so the shape does not matter to them.
            let (value, state) = self.kind.step(learning_rate, parameter.flat(), gradient, state);
            self.states.extend(state.map(|state| (parameter.path.clone(), state)));
            Change::Flat(value)
        })
    }
}

impl Kind {
    fn step(
        &self,
        learning_rate: f64,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<Moments>,
    ) -> (Tensor<1>, Option<Moments>) {
        match self {
            Self::AdamW(adamw) => {
                let held = state.and_then(|Moments { first, second, time }| {
                    Some(AdamWState { momentum: AdaptiveMomentumState::new(time, first, second?) })
                });
                let (value, state) = adamw.step(learning_rate, value, gradient, held);
                let state = state.map(|AdamWState { momentum }| Moments {
                    first: momentum.moment_1,
                    second: Some(momentum.moment_2),
                    time: momentum.time,
                });
                (value, state)
            }
            Self::Sgd { momentum, weight_decay } => {
                let (first, time) = match state {
                    Some(Moments { first, time, .. }) => (first.mul_scalar(*momentum) + gradient, time + 1),
                    None => (gradient, 1),
                };
                let value = value.mul_scalar(1.0 - learning_rate * weight_decay);
                let value = value - first.clone().mul_scalar(learning_rate);
                (value, Some(Moments { first, second: None, time }))
            }
        }
    }
}

/// The derivatives of a number with respect to a parameter and its two moments.
#[derive(Clone)]
pub(crate) struct Adjoint {
    pub(crate) parameter: Tensor<1>,
    pub(crate) moments: [Tensor<1>; 2],
}

/// What a step did to a parameter.
pub(crate) struct Stepped {
    /// The gradient it was given.
    pub(crate) gradient: Tensor<1>,
    /// What the optimizer kept after it.
    pub(crate) moments: Moments,
    pub(crate) optimizer: OptimizerChoice,
    pub(crate) learning_rate: f64,
    pub(crate) weight_decay: f32,
}

impl Adjoint {
    /// The derivatives before a step from those after it, but for what the gradient passes on to the parameter; and the
    /// derivative with respect to the gradient. All tensors have the type of the derivatives.
    ///
    /// With `d = √v̂ + ε`: `a −= η u / ((1 − β₁ˢ) d)`, `b += η u m̂ / (2 √v̂ d² (1 − β₂ˢ))`, which is 0 where `v̂ = 0` since
    /// `m̂ = 0` there; the gradient's is `(1 − β₁) a + 2 (1 − β₂) g b`. Of gradient descent `a −= η u`, which is the
    /// gradient's, too, and `a` before the step is the momentum times that.
    pub(crate) fn before(self, step: Stepped) -> (Self, Tensor<1>) {
        let Stepped { gradient, moments: Moments { first: m, second, time }, optimizer, learning_rate, weight_decay } =
            step;
        let Self { parameter: u, moments: [a, b] } = self;
        if let OptimizerChoice::Sgd { momentum } = optimizer {
            let a = a - u.clone().mul_scalar(learning_rate);
            let parameter = u.mul_scalar(1.0 - learning_rate * f64::from(weight_decay));
            return (Self { parameter, moments: [a.clone().mul_scalar(momentum), b] }, a);
        }
        let v = second.expect("AdamW keeps a second moment of every parameter");
        // As the optimizer rounds them.
        let kept = |beta: f32| (f64::from(beta), f64::from(1.0 - beta), f64::from(1.0 - beta.powi(time as i32)));
        let ((beta_1, new_1, sum_1), (beta_2, new_2, sum_2)) = (kept(BETA_1), kept(BETA_2));
        let root = v.div_scalar(sum_2).sqrt();
        let still = root.clone().equal_scalar(0.0);
        let below = root.clone().add_scalar(f64::from(EPSILON));
        let sent = u.clone().mul_scalar(learning_rate) / below.clone();
        let a = a - sent.clone().div_scalar(sum_1);
        let curved = sent * m.div_scalar(sum_1) / (below * root.mask_fill(still.clone(), 1.0)).mul_scalar(2.0 * sum_2);
        let b = b + curved.mask_fill(still, 0.0);
        let of_gradient = a.clone().mul_scalar(new_1) + (gradient * b.clone()).mul_scalar(2.0 * new_2);
        let parameter = u.mul_scalar(1.0 - learning_rate * f64::from(weight_decay));
        (Self { parameter, moments: [a.mul_scalar(beta_1), b.mul_scalar(beta_2)] }, of_gradient)
    }
}

/// Removes the gradients of a module's trained parameters from those of a backward pass.
pub(crate) fn take<M: Module>(module: &M, from: &mut Gradients) -> Flat {
    let mut taken = Flat::new();
    visit_parameters(module, |parameter| {
        if let Some(gradient) = parameter.take_gradient(from) {
            taken.insert(parameter.path.clone(), gradient);
        }
    });
    taken
}

/// Adds the gradients of another part of the batch.
pub(crate) fn add(sum: &mut Flat, more: Flat) {
    for (path, gradient) in more {
        let total = match sum.remove(&path) {
            Some(earlier) => earlier + gradient,
            None => gradient,
        };
        sum.insert(path, total);
    }
}

/// The norm over all gradients together.
pub(crate) fn norm(gradients: &Flat) -> Result<f64, ModelError> {
    let squares: Vec<Tensor<1>> = gradients.values().map(|g| g.clone().square().sum()).collect();
    if squares.is_empty() {
        return Ok(0.0);
    }
    let data = Tensor::cat(squares, 0).try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
    Ok(data.convert_dtype(DType::F64).iter::<f64>().sum::<f64>().sqrt())
}

/// Scales gradients whose joint norm is `norm`, so that it becomes at most `limit`.
pub(crate) fn clip(gradients: Flat, norm: f64, limit: f64) -> Flat {
    if norm <= limit {
        return gradients;
    }
    gradients.into_iter().map(|(path, g)| (path, g.mul_scalar(limit / norm))).collect()
}

/// A tensor in the type of the data.
pub(crate) fn on_device<const D: usize>(data: TensorData, device: &Device) -> Tensor<D> {
    let dtype = data.dtype();
    Tensor::from_data(data, (device, dtype))
}
