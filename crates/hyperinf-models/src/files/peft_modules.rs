//! Modules that an adapter holds whole, such as a classification head.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::peft::{A, B, PREFIX, transposed_data, without_prefix};
use crate::arch::parameters::{Change, Parameter, map_parameters, parameter_paths, visit_parameters};
use crate::{CheckpointNames, LoadError};

/// The tensors of an adapter, and the names of the modules that it holds whole.
pub(super) struct SavedModules<'a> {
    pub(super) tensors: &'a BTreeMap<String, TensorData>,
    pub(super) names: &'a [String],
}

impl SavedModules<'_> {
    /// The model with the saved parameters. Adds to the lists of used and missing tensors.
    pub(super) fn put_into<M: CheckpointNames>(
        &self,
        model: M,
        used: &mut Vec<String>,
        missing: &mut Vec<String>,
    ) -> Result<M, LoadError> {
        let mut names = BTreeMap::new();
        for path in parameter_paths(&model) {
            let name = format!("{PREFIX}{}", model.checkpoint_name(&path));
            let factor = name.ends_with(A) || name.ends_with(B);
            if self.tensors.contains_key(&name) && !factor {
                used.push(name.clone());
                names.insert(path, name);
            } else if self.names.iter().any(|module| is_within(without_prefix(&name), module)) {
                missing.push(name);
            }
        }
        let mut failed = None;
        let model = map_parameters(model, |parameter| {
            let Some(name) = names.get(&parameter.path) else { return Change::Keep };
            match stored(name, &self.tensors[name], parameter) {
                Ok(data) => Change::Data(data),
                Err(error) => {
                    failed.get_or_insert(error);
                    Change::Keep
                }
            }
        });
        failed.map_or(Ok(model), Err)
    }
}

/// A stored tensor in the layout of the parameter.
fn stored(name: &str, data: &TensorData, parameter: &Parameter<'_>) -> Result<TensorData, LoadError> {
    let mut expected = parameter.shape.clone();
    if parameter.is_linear_weight {
        expected.reverse();
    }
    let found = data.shape().to_vec();
    if found != expected {
        return Err(LoadError::AdapterShape { name: name.to_owned(), found, expected });
    }
    if parameter.is_linear_weight { transposed_data(data) } else { Ok(data.clone()) }
}

/// The parameters of these modules, with PEFT's names and in its layout.
pub(super) fn read_modules<M: CheckpointNames>(
    model: &M,
    modules: &[&str],
) -> Result<BTreeMap<String, TensorData>, LoadError> {
    let mut tensors = Ok(BTreeMap::new());
    visit_parameters(model, |parameter| {
        let Ok(found) = &mut tensors else { return };
        let name = model.checkpoint_name(&parameter.path);
        if !modules.iter().any(|module| is_within(&name, module)) {
            return;
        }
        match to_stored(parameter) {
            Ok(data) => drop(found.insert(format!("{PREFIX}{name}"), data)),
            Err(error) => tensors = Err(error),
        }
    });
    tensors
}

/// The parameter in f32 and in the layout of a file.
fn to_stored(parameter: &Parameter<'_>) -> Result<TensorData, LoadError> {
    let data = parameter.data()?;
    if parameter.is_linear_weight {
        return transposed_data(&data);
    }
    let values: Vec<f32> = data.iter::<f32>().collect();
    Ok(TensorData::new(values, data.shape().to_vec()))
}

/// Whether a parameter belongs to a module of that name.
fn is_within(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.')) || name.contains(&format!(".{module}."))
}
