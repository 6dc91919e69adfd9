//! The demo's model, the base with adapters in every linear layer, and its fine-tuning.

use burn::tensor::Device;
use hyperinf::models::{
    ALL_LINEAR, EncoderClassifier, FinetuneConfig, HeadKind, LoraConfig, ModelError, Progress, RecordedLayers, Sample,
    TrainConfig, adapt, finetune,
};

use super::data::{DataError, DemoData, Mail};

/// The largest number of tokens of a mail.
const TOKENS: usize = 128;

/// The tokens of a mail with a label, 1 for spam, which may differ from the true one.
///
/// # Errors
///
/// If the tokenizer fails.
pub(crate) fn sample(data: &DemoData, mail: &Mail, spam: bool) -> Result<Sample, DataError> {
    let tokens = data.tokens(&mail.text, TOKENS)?;
    Ok(Sample { tokens, label: usize::from(spam), ..Sample::default() })
}

/// The base model with new adapters and a new classification layer, both from the seed.
///
/// Gradients cover everything trainable: 24 factors of rank 4 and the classification layer, 7,298 parameters.
///
/// # Errors
///
/// If the embedded assets are damaged.
pub(crate) fn build(data: &DemoData, seed: u64, device: &Device) -> Result<EncoderClassifier, DataError> {
    let lora = LoraConfig { rank: 4, alpha: 16.0, ..LoraConfig::default() };
    let encoder = adapt(data.base(device)?, &[ALL_LINEAR], &lora, seed)?;
    Ok(EncoderClassifier::new(encoder, HeadKind::Mean, 2, RecordedLayers::AdaptersAndHead, seed.wrapping_add(1))?)
}

/// Fine-tunes the adapters and the head, for few epochs so that wrong labels are not memorised.
///
/// # Errors
///
/// If training diverges.
pub(crate) fn tune(
    model: EncoderClassifier,
    samples: &[Sample],
    seed: u64,
    progress: impl FnMut(&Progress),
) -> Result<EncoderClassifier, ModelError> {
    let schedule = TrainConfig { learning_rate: 3e-3, epochs: 4, batch_size: 32, seed, ..TrainConfig::default() };
    let config = FinetuneConfig { schedule, ..FinetuneConfig::default() };
    Ok(finetune(model, samples, None, &config, progress)?.model)
}
