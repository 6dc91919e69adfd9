//! The floating-point parameters of a module, by path and regardless of rank.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Tensor, TensorData};

use crate::ModelError;

/// A parameter during [`visit_parameters`] or [`map_parameters`].
pub(crate) struct Parameter<'a> {
    /// Its path in the module, such as `layers.0.q_proj.weight`.
    pub(crate) path: String,
    /// What it is known by in its module.
    pub(crate) id: ParamId,
    /// Its shape.
    pub(crate) shape: Vec<usize>,
    /// Whether it is the matrix of a linear layer, which checkpoints hold transposed.
    pub(crate) is_linear_weight: bool,
    value: &'a dyn Value,
}

impl Parameter<'_> {
    /// Whether the parameter requires a gradient.
    pub(crate) fn is_trained(&self) -> bool {
        self.value.is_trained()
    }

    /// Its values, in its own type.
    pub(crate) fn data(&self) -> Result<TensorData, ModelError> {
        self.value.data()
    }

    /// Its values without autodiff, flattened. The parameter must be trained.
    pub(crate) fn flat(&self) -> Tensor<1> {
        self.value.flat()
    }

    /// Its gradient, flattened and removed from `gradients`.
    pub(crate) fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        self.value.take_gradient(gradients)
    }
}

/// What [`map_parameters`] does to a parameter. A trained parameter stays trained, a frozen one frozen.
pub(crate) enum Change {
    /// It keeps its values.
    Keep,
    /// It takes these values, which have its shape and are converted to its type.
    Data(TensorData),
    /// It takes these flattened values, which have its type. The parameter must be trained.
    Flat(Tensor<1>),
}

/// Calls `visit` with every parameter.
pub(crate) fn visit_parameters<M: Module>(module: &M, visit: impl FnMut(&Parameter<'_>)) {
    module.visit(&mut Visitor { place: Place::default(), visit });
}

/// Calls `change` with every parameter and makes the change it asks for.
pub(crate) fn map_parameters<M: Module>(module: M, change: impl FnMut(&Parameter<'_>) -> Change) -> M {
    module.map(&mut Mapper { place: Place::default(), change })
}

/// The paths of all parameters.
pub(crate) fn parameter_paths<M: Module>(module: &M) -> Vec<String> {
    let mut paths = Vec::new();
    visit_parameters(module, |parameter| paths.push(parameter.path.clone()));
    paths
}

/// A parameter of any rank.
trait Value {
    fn is_trained(&self) -> bool;
    fn data(&self) -> Result<TensorData, ModelError>;
    fn flat(&self) -> Tensor<1>;
    fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>>;
}

impl<const D: usize> Value for Param<Tensor<D>> {
    fn is_trained(&self) -> bool {
        self.val().is_require_grad()
    }

    fn data(&self) -> Result<TensorData, ModelError> {
        self.val().without_autodiff().try_into_data().map_err(|e| ModelError::Read(e.to_string()))
    }

    fn flat(&self) -> Tensor<1> {
        flattened(self.val().inner())
    }

    fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        self.val().grad_remove(gradients).map(flattened)
    }
}

fn flattened<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let size = tensor.shape().num_elements();
    tensor.reshape([size])
}

/// The place in a module's tree.
#[derive(Default)]
struct Place {
    names: Vec<String>,
    containers: Vec<String>,
}

impl Place {
    fn enter(&mut self, name: &str, container: &str) {
        self.containers.push(container.to_owned());
        // The variants of an enum are not part of a path: an adapted layer has the path of the plain layer.
        if !container.starts_with("Enum:") {
            self.names.push(name.to_owned());
        }
    }

    fn exit(&mut self, container: &str) {
        self.containers.pop();
        if !container.starts_with("Enum:") {
            self.names.pop();
        }
    }

    fn parameter<'a, const D: usize>(&self, param: &'a Param<Tensor<D>>) -> Parameter<'a> {
        let in_linear = self.containers.last().is_some_and(|container| container == "Struct:Linear");
        Parameter {
            path: self.names.join("."),
            id: param.id,
            // `val` would initialise a parameter that is about to be replaced.
            shape: param.lazy_shape().to_vec(),
            is_linear_weight: D == 2 && in_linear,
            value: param,
        }
    }
}

struct Visitor<F> {
    place: Place,
    visit: F,
}

impl<F: FnMut(&Parameter<'_>)> ModuleVisitor for Visitor<F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.place.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        (self.visit)(&self.place.parameter(param));
    }
}

struct Mapper<F> {
    place: Place,
    change: F,
}

impl<F: FnMut(&Parameter<'_>) -> Change> ModuleMapper for Mapper<F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.place.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.place.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match (self.change)(&self.place.parameter(&param)) {
            Change::Keep => param,
            Change::Data(data) => param.map(|old| {
                let (device, dtype, trained) = (old.device(), old.dtype(), old.is_require_grad());
                Tensor::from_data(data.convert_dtype(dtype), (&device, dtype)).set_require_grad(trained)
            }),
            Change::Flat(flat) => param.map(|old| {
                let strategy = old.gradient_checkpointing_strategy();
                let new = Tensor::from_inner(flat.reshape(old.dims()));
                match strategy {
                    Some(strategy) => new.with_gradient_checkpointing_strategy(strategy).require_grad(),
                    None => new.require_grad(),
                }
            }),
        }
    }
}
