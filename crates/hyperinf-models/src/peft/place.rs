//! Modules that are saved beside the factors, placed into a model and read out of it.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use super::{A, B, PREFIX, transposed_data, without_prefix};
use crate::load::LoadError;
use crate::weights::Path;
use crate::{CheckpointNames, ModelError};

/// The tensors of an adapter, and the modules that are to be among them.
pub(super) struct Saved<'a> {
    pub(super) tensors: &'a BTreeMap<String, TensorData>,
    pub(super) modules: &'a [String],
}

/// A model with the parameters that the adapter holds whole. Names are added to those used and those missing.
pub(super) fn place_saved<M: CheckpointNames>(
    model: M,
    saved: &Saved<'_>,
    used: &mut Vec<String>,
    missing: &mut Vec<String>,
) -> Result<M, LoadError> {
    let mut paths = Paths::default();
    model.visit(&mut paths);
    let mut places = BTreeMap::new();
    for path in paths.found {
        let name = format!("{PREFIX}{}", model.checkpoint_name(&path));
        let factor = name.ends_with(A) || name.ends_with(B);
        if saved.tensors.contains_key(&name) && !factor {
            used.push(name.clone());
            places.insert(path, name);
        } else if saved.modules.iter().any(|module| is_within(without_prefix(&name), module)) {
            missing.push(name);
        }
    }
    let mut placer = Placer { path: Path::default(), places, tensors: saved.tensors, failed: None };
    let model = model.map(&mut placer);
    match placer.failed {
        Some(error) => Err(error),
        None => Ok(model),
    }
}

/// The parameters of these modules, in PEFT's names and layout.
pub(super) fn read_saved<M: CheckpointNames>(
    model: &M,
    modules: &[&str],
) -> Result<BTreeMap<String, TensorData>, LoadError> {
    let mut paths = Paths::default();
    model.visit(&mut paths);
    let named = paths.found.into_iter().map(|path| {
        let name = model.checkpoint_name(&path);
        (path, name)
    });
    let places = named.filter(|(_, name)| modules.iter().any(|module| is_within(name, module))).collect();
    let mut reader = Reader { path: Path::default(), places, found: Ok(BTreeMap::new()) };
    model.visit(&mut reader);
    reader.found
}

/// Whether a parameter belongs to a module of that name.
fn is_within(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.')) || name.contains(&format!(".{module}."))
}

/// Collects the paths of all parameters.
#[derive(Default)]
struct Paths {
    path: Path,
    found: Vec<String>,
}

impl ModuleVisitor for Paths {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
        self.found.push(self.path.name());
    }
}

struct Placer<'a> {
    path: Path,
    places: BTreeMap<String, String>,
    tensors: &'a BTreeMap<String, TensorData>,
    failed: Option<LoadError>,
}

impl ModuleMapper for Placer<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(name) = self.places.get(&self.path.name()) else {
            return param;
        };
        let turn = D == 2 && self.path.is_linear();
        let mut expected = param.lazy_shape().to_vec();
        if turn {
            expected.reverse();
        }
        let stored = &self.tensors[name];
        let found = stored.shape().to_vec();
        if found != expected {
            self.failed.get_or_insert(LoadError::AdapterShape { name: name.clone(), found, expected });
            return param;
        }
        let data = if turn { transposed_data(stored) } else { Ok(stored.clone()) };
        match data {
            Ok(data) => param.map(|old| {
                let trained = old.is_require_grad();
                Tensor::from_data(data.convert_dtype(old.dtype()), &old.device()).set_require_grad(trained)
            }),
            Err(error) => {
                self.failed.get_or_insert(error);
                param
            }
        }
    }
}

struct Reader {
    path: Path,
    places: BTreeMap<String, String>,
    found: Result<BTreeMap<String, TensorData>, LoadError>,
}

impl Reader {
    fn read<const D: usize>(&self, value: Tensor<D>) -> Result<TensorData, LoadError> {
        let data = value.without_autodiff().try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
        if D == 2 && self.path.is_linear() {
            transposed_data(&data)
        } else {
            let values: Vec<f32> = data.iter::<f32>().collect();
            Ok(TensorData::new(values, data.shape().to_vec()))
        }
    }
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(name) = self.places.get(&self.path.name()) else { return };
        let (name, read) = (format!("{PREFIX}{name}"), self.read(param.val()));
        match (&mut self.found, read) {
            (Ok(found), Ok(data)) => drop(found.insert(name, data)),
            (Ok(_), Err(error)) => self.found = Err(error),
            (Err(_), _) => {}
        }
    }
}
