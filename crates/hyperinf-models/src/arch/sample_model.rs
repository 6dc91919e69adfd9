use burn::module::Module;
use burn::tensor::Device;
use hyperinf_gradients::Task;

use crate::ModelError;

/// A model that makes batches of samples, which fine-tuning and attribution need beyond the [`Task`].
///
/// Nothing here is about text: the samples of a new kind of model may hold images.
pub trait SampleModel: Task + Module {
    /// A sample with its target, ready for the model: a token sequence with its class, say.
    type Sample: Clone + Send + Sync + std::hash::Hash;

    /// The samples as a batch on the model's device, padded to the longest.
    ///
    /// # Errors
    ///
    /// If there are no samples or one does not fit the model. The error counts samples from 0 in this batch.
    fn collate(&self, samples: &[&Self::Sample]) -> Result<Self::Batch, ModelError>;

    /// The length of a sample, such as its number of tokens. Samples of similar length share a batch, which saves
    /// padding; a kind without padding may return 1.
    fn length(sample: &Self::Sample) -> usize;

    /// The device that holds the weights.
    fn device(&self) -> Device;
}
