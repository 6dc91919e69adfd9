use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::TensorData;

use crate::ModelError;
use crate::arch::parameters::{Change, Parameter, map_parameters, visit_parameters};

/// A model whose parameters have other names in the checkpoints of Hugging Face's libraries.
pub trait CheckpointNames: Module {
    /// The name of a parameter in such a checkpoint, from its path in the module as [`weights`] gives it. The frozen
    /// layer inside an adapted one has the name of the plain layer.
    fn checkpoint_name(&self, path: &str) -> String;
}

/// The floating-point parameters of a module by their paths (`layers.0.q_proj.weight`), in the module's own type.
///
/// # Errors
///
/// If the device fails.
pub fn weights<M: Module>(module: &M) -> Result<BTreeMap<String, TensorData>, ModelError> {
    read(module, Selection::All)
}

/// A module with its parameters replaced by those of the same paths, converted to the module's own type.
///
/// # Errors
///
/// If the names are not exactly the module's (all missing and all unused ones are listed) or a shape differs.
pub fn load_weights<M: Module>(module: M, weights: BTreeMap<String, TensorData>) -> Result<M, ModelError> {
    write(module, weights, Selection::All)
}

/// A part of a module's parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    All,
    Trained,
    Frozen,
}

impl Selection {
    fn has(self, parameter: &Parameter<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Trained => parameter.is_trained(),
            Self::Frozen => !parameter.is_trained(),
        }
    }
}

/// [`weights`] of the selected parameters.
pub(crate) fn read<M: Module>(module: &M, selection: Selection) -> Result<BTreeMap<String, TensorData>, ModelError> {
    let mut values = Ok(BTreeMap::new());
    visit_parameters(module, |parameter| {
        let Ok(found) = &mut values else { return };
        if !selection.has(parameter) {
            return;
        }
        match parameter.data() {
            Ok(data) => drop(found.insert(parameter.path.clone(), data)),
            Err(error) => values = Err(error),
        }
    });
    values
}

/// [`load_weights`] of the selected parameters; the others stay.
pub(crate) fn write<M: Module>(
    module: M,
    mut weights: BTreeMap<String, TensorData>,
    selection: Selection,
) -> Result<M, ModelError> {
    let (mut missing, mut failed) = (Vec::new(), None);
    let module = map_parameters(module, |parameter| {
        if !selection.has(parameter) {
            return Change::Keep;
        }
        let Some(data) = weights.remove(&parameter.path) else {
            missing.push(parameter.path.clone());
            return Change::Keep;
        };
        let (found, expected) = (data.shape().to_vec(), parameter.shape.clone());
        if found == expected {
            return Change::Data(data);
        }
        failed.get_or_insert(ModelError::WeightShape { name: parameter.path.clone(), found, expected });
        Change::Keep
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let unused: Vec<String> = weights.into_keys().collect();
    if missing.is_empty() && unused.is_empty() { Ok(module) } else { Err(ModelError::WeightNames { missing, unused }) }
}
