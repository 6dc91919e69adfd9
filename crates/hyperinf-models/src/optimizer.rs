//! AdamW over the parameters of a module that are not frozen, each known by its path.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamW, AdamWConfig, AdamWState, Optimizer};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};

use crate::ModelError;
use crate::weights::Path;

/// Gradients or other values of the trained parameters by path, flattened.
pub(crate) type Flat = BTreeMap<String, Tensor<1>>;

/// The decay rates are Adam's own, 0.9 and 0.999; epsilon is 1e-8.
pub(crate) struct TrainedParameters {
    adamw: AdamW,
    pub(crate) states: BTreeMap<String, AdamWState<1>>,
}

impl TrainedParameters {
    pub(crate) fn new(weight_decay: f32) -> Self {
        let adamw = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(weight_decay).build();
        Self { adamw, states: BTreeMap::new() }
    }

    /// One step of AdamW for every parameter that has a gradient.
    pub(crate) fn step<M: Module>(&mut self, learning_rate: f64, module: M, gradients: Flat) -> M {
        module.map(&mut Step { path: Path::default(), learning_rate, gradients, optimizer: self })
    }
}

struct Step<'a> {
    path: Path,
    learning_rate: f64,
    gradients: Flat,
    optimizer: &'a mut TrainedParameters,
}

impl ModuleMapper for Step<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.name();
        let Some(gradient) = self.gradients.remove(&path) else { return param };
        let state = self.optimizer.states.remove(&path);
        param.map(|value| {
            let dims = value.dims();
            let strategy = value.gradient_checkpointing_strategy();
            // AdamW works entry by entry, so the shape does not matter to it.
            let flat = value.inner().reshape([gradient.dims()[0]]);
            let (flat, state) = self.optimizer.adamw.step(self.learning_rate, flat, gradient, state);
            if let Some(state) = state {
                self.optimizer.states.insert(path, state);
            }
            let updated = Tensor::from_inner(flat.reshape(dims));
            match strategy {
                Some(strategy) => updated.with_gradient_checkpointing_strategy(strategy).require_grad(),
                None => updated.require_grad(),
            }
        })
    }
}

/// Takes the gradients of a module's trained parameters out of a backward pass.
pub(crate) fn take<M: Module>(module: &M, from: &mut Gradients) -> Flat {
    let mut visitor = Take { path: Path::default(), from, taken: Flat::new() };
    module.visit(&mut visitor);
    visitor.taken
}

struct Take<'a> {
    path: Path,
    from: &'a mut Gradients,
    taken: Flat,
}

impl ModuleVisitor for Take<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(self.from) {
            let size = gradient.shape().num_elements();
            self.taken.insert(self.path.name(), gradient.reshape([size]));
        }
    }
}

/// Adds the gradients of another part of a batch.
pub(crate) fn add(sum: &mut Flat, more: Flat) {
    for (path, gradient) in more {
        let total = match sum.remove(&path) {
            Some(earlier) => earlier + gradient,
            None => gradient,
        };
        sum.insert(path, total);
    }
}

/// The norm of all gradients together.
pub(crate) fn norm(gradients: &Flat) -> Result<f64, ModelError> {
    let squares: Vec<Tensor<1>> = gradients.values().map(|g| g.clone().square().sum()).collect();
    if squares.is_empty() {
        return Ok(0.0);
    }
    let data = Tensor::cat(squares, 0).try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
    Ok(data.convert_dtype(DType::F64).iter::<f64>().sum::<f64>().sqrt())
}

/// Scales all gradients together so that their norm, which is given, is at most `limit`.
pub(crate) fn clip(gradients: Flat, norm: f64, limit: f64) -> Flat {
    if norm <= limit {
        return gradients;
    }
    gradients.into_iter().map(|(path, g)| (path, g.mul_scalar(limit / norm))).collect()
}

/// A tensor of the data's own type.
pub(crate) fn on_device<const D: usize>(data: TensorData, device: &Device) -> Tensor<D> {
    let dtype = data.dtype();
    Tensor::from_data(data, (device, dtype))
}
