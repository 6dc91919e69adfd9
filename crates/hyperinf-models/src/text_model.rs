use burn::module::Module;
use burn::tensor::Device;
use hyperinf_gradients::Task;

use crate::ModelError;

/// A model of token sequences: what fine-tuning and attribution need beside the [`Task`].
pub trait TextModel: Task + Module {
    /// A tokenized sample with what it is to be predicted from it.
    type Sample: Clone + Send + Sync + std::hash::Hash;

    /// The samples as a batch on the model's device, padded to the longest.
    ///
    /// # Errors
    ///
    /// If there are none, or one does not fit the model; the error counts samples from 0 in this batch.
    fn collate(&self, samples: &[&Self::Sample]) -> Result<Self::Batch, ModelError>;

    /// The number of tokens of a sample, for batches of similar length.
    fn tokens(sample: &Self::Sample) -> usize;

    /// The device that holds the weights.
    fn device(&self) -> Device;
}
