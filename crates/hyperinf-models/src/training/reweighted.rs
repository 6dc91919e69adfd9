use std::ops::ControlFlow;

use super::finetune::FinetuneConfig;
use super::recording::Recording;
use super::train::State;
use crate::{ModelError, SampleModel};

impl Recording {
    /// Takes the recorded training again with other weights of the samples' losses: the same first parameters, seeds,
    /// order and batches, whose means are still divided by the same number of samples. A weight of 0 takes a sample out of
    /// the training and leaves all else as it was; weights of 1 lead to the recorded parameters.
    ///
    /// `model` and `train` are those of the training, see [`check`](Self::check). `after` is called after every step.
    /// Returns what [`apply`](Self::apply) puts the trained parameters into.
    ///
    /// # Errors
    ///
    /// As [`of_training`](Self::of_training), or if the file is damaged.
    pub fn reweighted<M: SampleModel>(
        &self,
        model: &M,
        train: &[M::Sample],
        weights: Vec<f64>,
        after: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self, ModelError> {
        let config = FinetuneConfig { weights: Some(weights), ..self.config()? };
        let fresh = State::new(model.clone(), &config.schedule);
        let (start, _) = self.state(0)?.into_state(fresh)?;
        // Only the end is of interest: no state is held but the first.
        Self::of_training(start.module, train, &config, usize::MAX, Some(self.steps()), after)
    }
}
