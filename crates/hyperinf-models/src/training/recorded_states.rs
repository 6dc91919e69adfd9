//! The states of a recording: the model, the learning rates up to the next, and the metric of AdamW's moments.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::TensorData;

use super::adam_metric::{AdamMetric, metric};
use super::optimizer::{BETA_2, EPSILON};
use super::recording::Recording;
use super::recording_file::failed;
use crate::files::weights::{Selection, write};
use crate::{ModelError, OptimizerChoice};

impl Recording {
    /// A model with the parameters of the state at a place of [`states`](Self::states), as `valid()`.
    ///
    /// # Errors
    ///
    /// If the parameters are not those of the model, or the file is damaged.
    pub fn model_at<M: Module>(&self, place: usize, model: M) -> Result<M, ModelError> {
        let parameter = |(name, data): (String, TensorData)| Some((name.strip_prefix("parameter/")?.to_owned(), data));
        let parameters = self.state(place)?.tensors.into_iter().filter_map(parameter).collect();
        Ok(write(model.train(), parameters, Selection::Trained)?.valid())
    }

    /// The sum of the learning rates of the steps from each state to the next, and from the last one to the end, of a
    /// training on so many samples. Of gradient descent with a momentum `m` it is over `1 − m`, since a gradient moves
    /// the parameters by as much in the end.
    ///
    /// # Errors
    ///
    /// If the settings cannot be read.
    pub fn durations(&self, samples: usize) -> Result<Vec<f64>, ModelError> {
        let schedule = self.config()?.schedule;
        let (states, all) = (self.states(), schedule.steps(samples));
        let ends = states.iter().skip(1).copied().chain([self.steps()]);
        let kept = match schedule.optimizer {
            OptimizerChoice::AdamW => 0.0,
            OptimizerChoice::Sgd { momentum } => momentum,
        };
        let rate = |step: usize| schedule.learning_rate_at(step, all) / (1.0 - kept);
        Ok(states.iter().zip(ends).map(|(&from, to)| (from..to.min(all)).map(rate).sum()).collect())
    }

    /// The metric of the moments at a place of [`states`](Self::states); before the first step, where there are none, that
    /// of the next state.
    ///
    /// # Errors
    ///
    /// [`ModelError::Recording`] if no state has moments, or the file is damaged.
    pub fn metric_at(&self, place: usize) -> Result<AdamMetric, ModelError> {
        if self.config()?.schedule.optimizer != OptimizerChoice::AdamW {
            return Err(failed(self.path(), "it was trained by gradient descent, which has no second moments"));
        }
        let with_moments = place.max(1);
        if with_moments >= self.states().len() {
            return Err(failed(self.path(), "it has no state with AdamW's moments: the training had too few steps"));
        }
        let state = self.state(with_moments)?;
        let mut entries = BTreeMap::new();
        for (name, data) in &state.tensors {
            let Some(path) = name.strip_prefix("moment_2/") else { continue };
            let missing =
                || failed(self.path(), format!("it does not say how many steps the moments of `{path}` hold"));
            let steps = state.counts().get(path).copied().filter(|&steps| steps > 0).ok_or_else(missing)?;
            let sum = 1.0 - f64::from(BETA_2).powi(i32::try_from(steps).unwrap_or(i32::MAX));
            entries.insert(path.to_owned(), metric(data.clone(), sum, f64::from(EPSILON)));
        }
        Ok(AdamMetric { entries, steps: state.step() })
    }
}
