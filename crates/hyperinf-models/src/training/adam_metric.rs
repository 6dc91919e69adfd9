//! AdamW's second moments as a metric: from a recording, or from an optimizer's state in a file of its own.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use hyperinf_gradients::hyperinf_linalg::{precise, tensor_from_host};
use hyperinf_gradients::{Gradients, Target, capture};
use safetensors::SafeTensors;

use super::optimizer::{BETA_2, EPSILON};
use crate::arch::parameters::visit_parameters;
use crate::files::peft_names::standard;
use crate::files::weights::{Selection, read};
use crate::{Adaptable, Adapter, CheckpointNames, ModelError, SampleModel, open_regular};

/// AdamW's `√v̂ + ε` of each trained parameter, by its path: what a step divides the first moment by.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamMetric {
    /// The numbers, in the order of the parameter's entries.
    pub entries: BTreeMap<String, Vec<f64>>,
    /// The steps that the moments hold.
    pub steps: usize,
}

/// The ends of the names of moments.
const SECOND: &str = ".exp_avg_sq";
const FIRST: &str = ".exp_avg";
/// The longest file that is read, in bytes.
const MOST_BYTES: u64 = 1 << 34;

impl AdamMetric {
    /// That of an optimizer's state in a safetensors file: `NAME.exp_avg_sq` for every parameter, by the names of the
    /// adapter's file or of PEFT's module, with the number of steps in the metadata `step`. `NAME.exp_avg` may be there too and is not read.
    /// The decay rate and epsilon are `beta2` and `eps` of the metadata, .999 and 1e-8 without them.
    ///
    /// `model` is a model with the adapter.
    ///
    /// # Errors
    ///
    /// [`ModelError::OptimizerState`] if the file cannot be read, says no steps, or holds a negative number or none that is
    /// finite; [`ModelError::Moments`] if its tensors are not those of the adapter.
    pub fn of_optimizer<M: Adaptable + CheckpointNames>(
        path: &Path,
        adapter: &Adapter,
        model: &M,
    ) -> Result<Self, ModelError> {
        let bad = |reason: String| failed(path, reason);
        let (bytes, metadata) = contents(path)?;
        let number = |name: &str, usual: f64| match metadata.get(name) {
            Some(text) => text.parse::<f64>().map_err(|_| bad(format!("its metadata `{name}` is `{text}`, no number"))),
            None => Ok(usual),
        };
        let steps = metadata.get("step").and_then(|text| text.parse::<usize>().ok()).filter(|&steps| steps > 0);
        let steps = steps.ok_or_else(|| bad("its metadata have no `step`, the number of steps, at least 1".into()))?;
        let (beta, epsilon) = (number("beta2", f64::from(BETA_2))?, number("eps", f64::from(EPSILON))?);
        if !((0.0..1.0).contains(&beta) && epsilon > 0.0 && epsilon.is_finite()) {
            return Err(bad(format!("it has beta2 {beta} and eps {epsilon}: at least 0 and below 1, and above 0")));
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            if name.ends_with(FIRST) {
                continue;
            }
            let Some(parameter) = name.strip_suffix(SECOND) else {
                return Err(bad(format!("`{name}` ends in neither `{SECOND}` nor `{FIRST}`")));
            };
            if view.dtype() != safetensors::Dtype::F32 {
                return Err(bad(format!("`{name}` is of type {:?}, not F32", view.dtype())));
            }
            let values: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
                .collect();
            if let Some(value) = values.iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
                return Err(bad(format!("`{name}` holds {value}: second moments are finite and not negative")));
            }
            tensors.insert(standard(parameter), TensorData::new(values, view.shape().to_vec()));
        }
        // The moments as an adapter: whatever an adapter's names and shapes mean, they mean for its moments.
        let moments = Adapter { config: adapter.config.clone(), tensors };
        let held = moments
            .apply(model.clone())
            .map_err(|source| ModelError::Moments { path: path.to_owned(), source: Box::new(source) })?;
        let sum = 1.0 - beta.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        let of = |data: TensorData| metric(data, sum, epsilon);
        let entries = read(&held.train(), Selection::Trained)?.into_iter().map(|(path, data)| (path, of(data)));
        Ok(Self { entries: entries.collect(), steps })
    }

    /// The numbers in the blocks of a tape, one row, in f64 where the device has it.
    ///
    /// # Errors
    ///
    /// [`ModelError::NoMetric`] for a block with a parameter that has no moments, or that stands for several layers.
    pub fn in_blocks<M: SampleModel>(&self, model: &M, batch: &M::Batch) -> Result<Gradients, ModelError> {
        let found = capture(model, batch, Target::Loss)?;
        let mut paths = BTreeMap::new();
        visit_parameters(model, |parameter| drop(paths.insert(parameter.id, parameter.path.clone())));
        let (mut layout, mut blocks) = (Vec::new(), Vec::new());
        for capture in found.blocks {
            let block = capture.block;
            let missing = || ModelError::NoMetric { block: block.name.clone() };
            let ids = found.parameters.get(&block.name).filter(|ids| !ids.is_empty()).ok_or_else(missing)?;
            let mut values = Vec::with_capacity(block.parameters());
            for id in ids {
                let entries = paths.get(id).and_then(|path| self.entries.get(path)).ok_or_else(missing)?;
                values.extend_from_slice(entries);
            }
            if values.len() != block.parameters() {
                return Err(missing());
            }
            let like: Tensor<3> = precise(capture.delta);
            let rows = tensor_from_host(values, [1, block.parameters()], &like.device(), like.dtype());
            blocks.push(rows.reshape([1, block.rows, block.cols]));
            layout.push(block);
        }
        Ok(Gradients::new(layout, blocks)?)
    }
}

/// `√(v / sum) + ε`.
pub(super) fn metric(moments: TensorData, sum: f64, epsilon: f64) -> Vec<f64> {
    moments.convert::<f64>().iter::<f64>().map(|value| (value / sum).sqrt() + epsilon).collect()
}

/// The bytes of a file, and its metadata.
fn contents(path: &Path) -> Result<(Vec<u8>, BTreeMap<String, String>), ModelError> {
    use std::io::Read;
    let bad = |reason: String| failed(path, reason);
    let file = open_regular(path).map_err(|e| bad(e.to_string()))?;
    let size = file.metadata().map_err(|e| bad(e.to_string()))?.len();
    if size > MOST_BYTES {
        return Err(bad(format!("it has {size} bytes; at most {MOST_BYTES} are read")));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
    let metadata = header.metadata().iter().flatten().map(|(name, text)| (name.clone(), text.clone())).collect();
    Ok((bytes, metadata))
}

fn failed(path: &Path, reason: String) -> ModelError {
    ModelError::OptimizerState { path: path.to_owned(), reason }
}
