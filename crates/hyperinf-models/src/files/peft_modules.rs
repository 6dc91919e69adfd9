//! Modules that an adapter holds whole, such as a classification head.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::peft::{A, B, PREFIX, Place, transposed_data, without_prefix};
use super::peft_config::{TrainedTokens, ends_in};
use crate::arch::parameters::{Change, Parameter, map_parameters, parameter_paths, visit_parameters};
use crate::{CheckpointNames, LoadError};

/// The tensors of an adapter, and the names of the modules that it holds whole.
pub(super) struct SavedModules<'a> {
    pub(super) tensors: &'a BTreeMap<String, TensorData>,
    pub(super) names: &'a [String],
    /// The tokens whose rows it holds.
    pub(super) tokens: Option<&'a TrainedTokens>,
    pub(super) place: &'a Place,
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
        let mut has_rows = self.tokens.is_none();
        for path in parameter_paths(&model) {
            let full = model.checkpoint_name(&path);
            let name = format!("{PREFIX}{}", self.place.within(&full));
            let factor = name.ends_with(A) || name.ends_with(B);
            if self.tensors.contains_key(&name) && !factor {
                used.push(name.clone());
                names.insert(path, Stored::Whole(name));
            } else if let Some((rows, tokens)) = self.rows(&name) {
                used.push(rows.clone());
                has_rows = true;
                names.insert(path, Stored::Rows(rows, tokens));
            } else if self.names.iter().any(|module| is_within(without_prefix(&name), module)) {
                missing.push(name);
            }
        }
        if !has_rows {
            missing.push(format!("{PREFIX}….embed_tokens{ROWS}"));
        }
        let mut failed = None;
        let model = map_parameters(model, |parameter| {
            let found = match names.get(&parameter.path) {
                None => return Change::Keep,
                Some(Stored::Whole(name)) => stored(name, &self.tensors[name], parameter),
                Some(Stored::Rows(name, tokens)) => with_rows(name, &self.tensors[name], tokens, parameter),
            };
            match found {
                Ok(data) => Change::Data(data),
                Err(error) => {
                    failed.get_or_insert(error);
                    Change::Keep
                }
            }
        });
        failed.map_or(Ok(model), Err)
    }

    /// The rows that the adapter holds of a table.
    fn rows(&self, name: &str) -> Option<(String, &[usize])> {
        let (module, trained) = (name.strip_suffix(".weight")?, self.tokens?);
        let rows = format!("{module}{ROWS}");
        let named = trained.module.as_deref().is_none_or(|end| ends_in(without_prefix(module), end));
        (named && self.tensors.contains_key(&rows)).then_some((rows, &trained.tokens))
    }
}

/// The end of the name of an embedding's trained rows, which take the place of the base's.
const ROWS: &str = ".token_adapter.trainable_tokens_delta";

/// What an adapter holds of a parameter.
enum Stored<'a> {
    Whole(String),
    Rows(String, &'a [usize]),
}

/// A table with some rows replaced.
fn with_rows(
    name: &str,
    rows: &TensorData,
    tokens: &[usize],
    parameter: &Parameter<'_>,
) -> Result<TensorData, LoadError> {
    let [vocabulary, width] = parameter.shape[..] else {
        let (found, expected) = (rows.shape().to_vec(), parameter.shape.clone());
        return Err(LoadError::AdapterShape { name: name.to_owned(), found, expected });
    };
    let (found, expected) = (rows.shape().to_vec(), vec![tokens.len(), width]);
    if found != expected {
        return Err(LoadError::AdapterShape { name: name.to_owned(), found, expected });
    }
    if let Some(&token) = tokens.iter().find(|&&token| token >= vocabulary) {
        return Err(LoadError::AdapterToken { token, vocabulary });
    }
    let mut values: Vec<f32> = parameter.data()?.iter::<f32>().collect();
    let rows: Vec<f32> = rows.iter::<f32>().collect();
    for (row, &token) in tokens.iter().enumerate() {
        values[token * width..(token + 1) * width].copy_from_slice(&rows[row * width..(row + 1) * width]);
    }
    Ok(TensorData::new(values, [vocabulary, width]))
}

/// A stored tensor in the layout of the parameter.
fn stored(name: &str, data: &TensorData, parameter: &Parameter<'_>) -> Result<TensorData, LoadError> {
    let mut expected = parameter.shape.clone();
    if parameter.is_linear_weight {
        expected.reverse();
    }
    let found = data.shape().to_vec();
    let table = name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight");
    if let ([tokens, width], [vocabulary, same]) = (&found[..], &expected[..])
        && table
        && width == same
        && tokens != vocabulary
    {
        return Err(LoadError::AdapterVocabulary { name: name.to_owned(), found: *tokens, expected: *vocabulary });
    }
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
