use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

use crate::ModelError;

/// A model whose parameters have names of their own in the checkpoints of Hugging Face's libraries.
pub trait CheckpointNames: Module {
    /// The name of a parameter in such a checkpoint, from its path in the module as [`weights`] gives it; the frozen
    /// layer below an adapter has the name of the layer.
    fn checkpoint_name(&self, path: &str) -> String;
}

/// The floating-point parameters of a module by their paths (`layers.0.q_proj.weight`), in the module's own type.
///
/// # Errors
///
/// If the device fails.
pub fn weights<M: Module>(module: &M) -> Result<BTreeMap<String, TensorData>, ModelError> {
    read(module, Which::All)
}

/// A module with its parameters replaced by those of the same paths, converted to the parameters' types.
///
/// # Errors
///
/// If the names are not exactly the module's (all missing and all unused are listed) or a shape differs.
pub fn load_weights<M: Module>(module: M, weights: BTreeMap<String, TensorData>) -> Result<M, ModelError> {
    write(module, weights, Which::All)
}

/// Of which parameters the values are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    Trained,
    Frozen,
}

impl Which {
    fn has<const D: usize>(self, value: &Tensor<D>) -> bool {
        match self {
            Self::All => true,
            Self::Trained => value.is_require_grad(),
            Self::Frozen => !value.is_require_grad(),
        }
    }
}

/// [`weights`] of some parameters.
pub(crate) fn read<M: Module>(module: &M, which: Which) -> Result<BTreeMap<String, TensorData>, ModelError> {
    let mut reader = Reader { path: Path::default(), which, found: Ok(BTreeMap::new()) };
    module.visit(&mut reader);
    reader.found
}

/// [`load_weights`] of some parameters; the others stay.
pub(crate) fn write<M: Module>(
    module: M,
    weights: BTreeMap<String, TensorData>,
    which: Which,
) -> Result<M, ModelError> {
    let mut writer = Writer { path: Path::default(), which, weights, missing: Vec::new(), shape: None };
    let module = module.map(&mut writer);
    if let Some(error) = writer.shape {
        return Err(error);
    }
    let unused: Vec<String> = writer.weights.into_keys().collect();
    if writer.missing.is_empty() && unused.is_empty() {
        Ok(module)
    } else {
        Err(ModelError::WeightNames { missing: writer.missing, unused })
    }
}

/// The place in a module tree. An enum's variants are not part of a path: an adapted layer is the same layer.
#[derive(Default)]
pub(crate) struct Path {
    names: Vec<String>,
    containers: Vec<String>,
}

impl Path {
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        self.containers.push(container.to_owned());
        if !container.starts_with("Enum:") {
            self.names.push(name.to_owned());
        }
    }

    pub(crate) fn exit(&mut self, container: &str) {
        self.containers.pop();
        if !container.starts_with("Enum:") {
            self.names.pop();
        }
    }

    pub(crate) fn name(&self) -> String {
        self.names.join(".")
    }

    /// Whether the place is a parameter of a linear layer.
    pub(crate) fn is_linear(&self) -> bool {
        self.containers.last().is_some_and(|container| container == "Struct:Linear")
    }
}

struct Reader {
    path: Path,
    which: Which,
    found: Result<BTreeMap<String, TensorData>, ModelError>,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Ok(found) = &mut self.found else { return };
        let value = param.val();
        if !self.which.has(&value) {
            return;
        }
        match value.without_autodiff().try_into_data() {
            Ok(data) => drop(found.insert(self.path.name(), data)),
            Err(e) => self.found = Err(ModelError::Read(e.to_string())),
        }
    }
}

struct Writer {
    path: Path,
    which: Which,
    weights: BTreeMap<String, TensorData>,
    missing: Vec<String>,
    shape: Option<ModelError>,
}

impl ModuleMapper for Writer {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        if !self.which.has(&value) {
            return param;
        }
        let name = self.path.name();
        let Some(data) = self.weights.remove(&name) else {
            self.missing.push(name);
            return param;
        };
        let (expected, found) = (value.dims().to_vec(), data.shape().to_vec());
        if expected != found {
            self.shape.get_or_insert(ModelError::WeightShape { name, found, expected });
            return param;
        }
        let (device, dtype): (_, DType) = (value.device(), value.dtype());
        let trained = value.is_require_grad();
        param.map(|_| Tensor::from_data(data.convert_dtype(dtype), (&device, dtype)).set_require_grad(trained))
    }
}
