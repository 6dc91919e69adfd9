use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::optimizer::{Moments, clip, norm, on_device, take};
use super::train::{State, read_scalar};
use crate::arch::parameters::visit_parameters;
use crate::files::weights::{Selection, read, write};
use crate::files::whole::write_whole;
use crate::{ModelError, OptimizerChoice};

/// Training from scratch with AdamW, gradient clipping and an exponential moving average of the weights, step by step:
/// the caller has the loop, the data and the learning rates.
///
/// The average after step `s` is `d a + (1 − d) w` with `d = min(decay, (1 + s) / (10 + s))`; early steps count little.
pub struct AveragedTraining<M> {
    state: State<M>,
    average: BTreeMap<String, Tensor<1>>,
    decay: f64,
    clip_norm: f64,
}

/// The header entry of a saved run.
const ENTRY: &str = "hyperinf_training";

#[derive(Serialize, Deserialize)]
struct Entry {
    settings: String,
    step: usize,
    counts: BTreeMap<String, usize>,
}

impl<M: Module> AveragedTraining<M> {
    /// A run at its beginning, with the decay of the average and the largest norm of a step's gradient.
    pub fn new(module: M, weight_decay: f32, decay: f64, clip_norm: f64) -> Self {
        let mut run = Self {
            state: State::of(module, OptimizerChoice::AdamW, weight_decay),
            average: BTreeMap::new(),
            decay,
            clip_norm,
        };
        run.average = run.current();
        run
    }

    /// The steps taken.
    pub fn steps(&self) -> usize {
        self.state.step
    }

    /// The model with the weights of the last step, in training.
    pub fn model(&self) -> &M {
        &self.state.module
    }

    /// One step on the mean of `losses`, any number of values; returns that mean.
    ///
    /// # Errors
    ///
    /// If every parameter is frozen, the loss or a gradient is not finite, or `losses` fails.
    pub fn step(
        &mut self,
        learning_rate: f64,
        losses: impl FnOnce(&M) -> Result<Tensor<1>, ModelError>,
    ) -> Result<f64, ModelError> {
        let step = self.state.step;
        let mean = losses(&self.state.module)?.mean();
        if !mean.is_tracked() {
            return Err(ModelError::Frozen);
        }
        let loss = read_scalar(mean.clone())?;
        if !loss.is_finite() {
            return Err(ModelError::Diverged { step, value: loss, learning_rate });
        }
        let gradients = take(&self.state.module, &mut mean.backward());
        let size = norm(&gradients)?;
        if !size.is_finite() {
            return Err(ModelError::GradientDiverged { step, norm: size, learning_rate });
        }
        let gradients = clip(gradients, size, self.clip_norm);
        // A copy shares its tensors; the old values go with the old module.
        self.state.module = self.state.optimizer.step(learning_rate, self.state.module.clone(), gradients);
        self.state.step = step + 1;
        let taken = self.state.step as f64;
        let decay = self.decay.min((1.0 + taken) / (10.0 + taken));
        for (path, value) in self.current() {
            let earlier = self.average.remove(&path).unwrap_or_else(|| value.clone());
            self.average.insert(path, earlier.mul_scalar(decay) + value.mul_scalar(1.0 - decay));
        }
        Ok(loss)
    }

    /// The model with the averaged weights, as `valid()`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn averaged(&self) -> Result<M, ModelError> {
        let shapes = read(&self.state.module, Selection::Trained)?;
        let mut values = BTreeMap::new();
        for (path, old) in shapes {
            let Some(average) = self.average.get(&path) else { continue };
            let data = data(average)?;
            values.insert(path, TensorData::new(data.iter::<f32>().collect(), old.shape().to_vec()));
        }
        Ok(write(self.state.module.clone(), values, Selection::Trained)?.valid())
    }

    /// Writes the run into a file, from which [`resume`](Self::resume) continues; an earlier one is replaced at once.
    /// `settings` says what the run depends on.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self, path: &Path, settings: &str) -> Result<(), ModelError> {
        let failed = |reason: String| ModelError::Checkpoint { path: path.to_owned(), reason };
        let mut tensors = BTreeMap::new();
        for (name, value) in self.current() {
            tensors.insert(format!("parameter/{name}"), data(&value)?);
        }
        for (name, value) in &self.average {
            tensors.insert(format!("average/{name}"), data(value)?);
        }
        let mut counts = BTreeMap::new();
        for (name, Moments { first, second, time }) in &self.state.optimizer.states {
            counts.insert(name.clone(), *time);
            tensors.insert(format!("moment_1/{name}"), data(first)?);
            if let Some(second) = second {
                tensors.insert(format!("moment_2/{name}"), data(second)?);
            }
        }
        let entry = Entry { settings: settings.to_owned(), step: self.state.step, counts };
        let entry = serde_json::to_string(&entry).map_err(|e| failed(e.to_string()))?;
        let views = tensors
            .iter()
            .map(|(name, data)| Ok((name, TensorView::new(Dtype::F32, data.shape().to_vec(), data.as_bytes())?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| failed(e.to_string()))?;
        let bytes = safetensors::serialize(views, Some(HashMap::from([(ENTRY.to_owned(), entry)])));
        let bytes = bytes.map_err(|e| failed(e.to_string()))?;
        write_whole(&[(path.to_owned(), bytes)]).map_err(|(path, source)| ModelError::CheckpointWrite { path, source })
    }

    /// Continues a saved run: takes over its weights, moments, average and step.
    ///
    /// # Errors
    ///
    /// If the file is damaged, or belongs to another model or other settings.
    pub fn resume(&mut self, path: &Path, settings: &str) -> Result<(), ModelError> {
        let failed = |reason: String| ModelError::Checkpoint { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| failed(e.to_string()))?;
        let entry = metadata.metadata().as_ref().and_then(|entries| entries.get(ENTRY));
        let entry = entry.ok_or_else(|| failed(format!("its header has no `{ENTRY}`")))?;
        let entry: Entry = serde_json::from_str(entry).map_err(|e| failed(e.to_string()))?;
        if entry.settings != settings {
            return Err(failed(format!("its settings are {}, not {settings}", entry.settings)));
        }
        let mut groups: BTreeMap<String, BTreeMap<String, TensorData>> = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(&bytes).map_err(|e| failed(e.to_string()))?.iter() {
            let (group, rest) = name.split_once('/').ok_or_else(|| failed(format!("it has a tensor `{name}`")))?;
            let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            let data = TensorData::new(values, view.shape().to_vec());
            groups.entry(group.to_owned()).or_default().insert(rest.to_owned(), data);
        }
        let mut group = |name: &str| groups.remove(name).unwrap_or_default();
        let (flat, average) = (group("parameter"), group("average"));
        let (mut first, mut second) = (group("moment_1"), group("moment_2"));
        let shapes = read(&self.state.module, Selection::Trained)?;
        let mut parameters = BTreeMap::new();
        for (path, data) in flat {
            let shape = shapes.get(&path).map_or_else(|| data.shape().to_vec(), |old| old.shape().to_vec());
            if shape.iter().product::<usize>() != data.num_elements() {
                let found = data.shape().to_vec();
                return Err(ModelError::WeightShape { name: path, found, expected: shape });
            }
            parameters.insert(path, TensorData::new(data.iter::<f32>().collect(), shape));
        }
        let device = self.state.module.devices().into_iter().next();
        let device = device.ok_or(ModelError::Empty { what: "parameters of the model" })?.without_autodiff();
        for (path, time) in entry.counts {
            let (Some(first), Some(second)) = (first.remove(&path), second.remove(&path)) else {
                return Err(ModelError::WeightNames { missing: vec![path], unused: Vec::new() });
            };
            let moments = Moments { first: on_device(first, &device), second: Some(on_device(second, &device)), time };
            self.state.optimizer.states.insert(path, moments);
        }
        self.state.module = write(self.state.module.clone(), parameters, Selection::Trained)?;
        self.average = average.into_iter().map(|(path, data)| (path, on_device(data, &device))).collect();
        self.state.step = entry.step;
        Ok(())
    }

    /// The trained parameters, flattened.
    fn current(&self) -> BTreeMap<String, Tensor<1>> {
        let mut values = BTreeMap::new();
        visit_parameters(&self.state.module, |parameter| {
            if parameter.is_trained() {
                values.insert(parameter.path.clone(), parameter.flat());
            }
        });
        values
    }
}

fn data(tensor: &Tensor<1>) -> Result<TensorData, ModelError> {
    tensor.clone().try_into_data().map_err(|e| ModelError::Read(e.to_string()))
}
