//! AdamW on the trained parameters of a module, by their paths.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::{AdamW, AdamWConfig, AdamWState, Optimizer as _};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};

use crate::ModelError;
use crate::arch::parameters::{Change, map_parameters, visit_parameters};

/// The flattened gradients of the trained parameters, by path.
pub(crate) type Flat = BTreeMap<String, Tensor<1>>;

/// AdamW (Loshchilov & Hutter 2019) with decay rates 0.9 and 0.999 and epsilon 1e-8, and its state of each parameter.
pub(crate) struct Optimizer {
    adamw: AdamW,
    pub(crate) states: BTreeMap<String, AdamWState<1>>,
}

impl Optimizer {
    pub(crate) fn new(weight_decay: f32) -> Self {
        let adamw = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(weight_decay).build();
        Self { adamw, states: BTreeMap::new() }
    }

    /// One step of AdamW for every parameter that has a gradient.
    pub(crate) fn step<M: Module>(&mut self, learning_rate: f64, module: M, mut gradients: Flat) -> M {
        map_parameters(module, |parameter| {
            let Some(gradient) = gradients.remove(&parameter.path) else { return Change::Keep };
            let state = self.states.remove(&parameter.path);
            // AdamW works entry by entry, so the shape does not matter to it.
            let (value, state) = self.adamw.step(learning_rate, parameter.flat(), gradient, state);
            if let Some(state) = state {
                self.states.insert(parameter.path.clone(), state);
            }
            Change::Flat(value)
        })
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
