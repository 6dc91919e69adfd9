use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use hyperinf_gradients::{Tape, Task};

use crate::error::check;
use crate::init::Init;
use crate::{Encoder, LabelledBatch, ModelError, Sample, TokenBatch};

/// Which layers of a classifier leave a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The factors of the adapters.
    Adapters,
    /// These, and the classification layer with its bias as the block `classifier.weight`.
    AdaptersAndHead,
}

/// An [`Encoder`], the mean over its tokens, and a linear layer to the classes.
#[derive(Module, Debug)]
pub struct EncoderClassifier {
    /// The encoder.
    pub encoder: Encoder,
    /// The classification layer, `[d, classes]` with bias; trained unless frozen by the caller.
    pub classifier: Linear,
    #[module(skip)]
    recorded: Recorded,
}

impl EncoderClassifier {
    /// A classification layer with weights from the seed on top of an encoder.
    ///
    /// # Errors
    ///
    /// If there are fewer than 2 classes.
    pub fn new(encoder: Encoder, classes: usize, recorded: Recorded, seed: u64) -> Result<Self, ModelError> {
        check(classes >= 2, "classes", classes as f64, "at least 2")?;
        let device = encoder.device();
        let classifier = Init::new(seed, &device).linear(encoder.config().width, classes);
        Ok(Self { encoder, classifier, recorded })
    }

    /// A batch on the model's device, padded to its longest sample.
    ///
    /// # Errors
    ///
    /// If it is empty, or a sample's length, tokens or label do not fit the model; the error counts samples from 0
    /// in this batch.
    pub fn batch<'a>(&self, samples: impl IntoIterator<Item = &'a Sample>) -> Result<LabelledBatch, ModelError> {
        let samples: Vec<&Sample> = samples.into_iter().collect();
        let [_, classes] = self.classifier.weight.val().dims();
        if let Some(sample) = samples.iter().position(|s| s.label >= classes) {
            return Err(ModelError::Label { sample, label: samples[sample].label, classes });
        }
        let device = self.encoder.device();
        let sequences: Vec<&[u32]> = samples.iter().map(|s| s.tokens.as_slice()).collect();
        let labels: Vec<i64> = samples.iter().map(|s| s.label as i64).collect();
        let n = labels.len();
        Ok(LabelledBatch {
            tokens: TokenBatch::new(&sequences, self.encoder.config(), &device)?,
            labels: Tensor::from_data(TensorData::new(labels, [n]), &device),
        })
    }
}

/// Outputs are the logits `[n, classes]`; the loss is the cross-entropy `−log p(label)` of each sample.
impl Task for EncoderClassifier {
    type Batch = LabelledBatch;

    fn forward(&self, batch: &LabelledBatch, tape: &mut Tape) -> Tensor<2> {
        let pooled = self.encoder.pooled(&batch.tokens, tape);
        match self.recorded {
            Recorded::Adapters => self.classifier.forward(pooled),
            Recorded::AdaptersAndHead => tape.linear("classifier.weight", &self.classifier, pooled),
        }
    }

    fn loss(&self, outputs: Tensor<2>, batch: &LabelledBatch) -> Tensor<1> {
        cross_entropy(outputs, batch.labels.clone())
    }
}

/// `−log softmax(logits)[label]` of each row: `[n, classes]` and `[n]` to `[n]`.
pub(crate) fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    log_softmax(logits, 1).gather(1, labels.unsqueeze_dim(1)).squeeze_dim::<1>(1).neg()
}
