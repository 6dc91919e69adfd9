mod head;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hyperinf_gradients::{Family, Likelihood, Tape, Task};

use crate::error::check;
use crate::init::Init;
use crate::{
    Adaptable, CheckpointNames, Encoder, LabelledBatch, ModelError, Projection, Sample, TextModel, TokenBatch,
};
pub use head::{DenseHead, Head, HeadKind};

/// Which layers of a classifier leave a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recorded {
    /// The factors of the adapters.
    Adapters,
    /// These, and the layers of the head with their biases: all that is trained.
    #[default]
    AdaptersAndHead,
}

/// An [`Encoder`] with a classification [`Head`].
///
/// [`adapt`](crate::adapt) freezes the encoder, its pooler included; the head is trained beside the adapters and is
/// never adapted itself. As blocks its layers are named as PEFT names modules to save:
/// `base_model.model.classifier.weight`.
#[derive(Module, Debug)]
pub struct EncoderClassifier {
    /// The encoder.
    pub encoder: Encoder,
    /// The head; trained unless frozen by the caller.
    pub classifier: Head,
    /// Which layers leave a capture.
    #[module(skip)]
    pub recorded: Recorded,
}

impl EncoderClassifier {
    /// A head with weights from the seed on top of an encoder.
    ///
    /// # Errors
    ///
    /// If there are fewer than 2 classes, or the head needs a pooler and the encoder has none.
    pub fn new(
        encoder: Encoder,
        head: HeadKind,
        classes: usize,
        recorded: Recorded,
        seed: u64,
    ) -> Result<Self, ModelError> {
        check(classes >= 2, "classes", classes as f64, "at least 2")?;
        if head == HeadKind::Pooler && !encoder.config().pooler {
            return Err(ModelError::NoPooler);
        }
        let device = encoder.device();
        let classifier = Head::new(head, encoder.config().width, classes, &mut Init::new(seed, &device));
        Ok(Self { encoder, classifier, recorded })
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classifier.classes()
    }
}

impl TextModel for EncoderClassifier {
    type Sample = Sample;

    fn collate(&self, samples: &[&Sample]) -> Result<LabelledBatch, ModelError> {
        let classes = self.classes();
        if let Some(sample) = samples.iter().position(|s| s.label >= classes) {
            return Err(ModelError::Label { sample, label: samples[sample].label, classes });
        }
        let device = self.device();
        let sequences: Vec<&[u32]> = samples.iter().map(|s| s.tokens.as_slice()).collect();
        let segments: Vec<&[u32]> = samples.iter().map(|s| s.segments.as_slice()).collect();
        let labels: Vec<i64> = samples.iter().map(|s| s.label as i64).collect();
        let n = labels.len();
        Ok(LabelledBatch {
            tokens: TokenBatch::with_segments(&sequences, &segments, self.encoder.config(), &device)?,
            labels: Tensor::from_data(TensorData::new(labels, [n]), &device),
        })
    }

    fn tokens(sample: &Sample) -> usize {
        sample.tokens.len()
    }

    fn device(&self) -> Device {
        self.encoder.device()
    }
}

impl Adaptable for EncoderClassifier {
    fn projections(&mut self, visit: &mut dyn FnMut(&str, &mut Projection)) {
        match &self.classifier {
            Head::Pooler(_) => self.encoder.projections(visit),
            // An adapter of a layer that is not used would never be trained.
            Head::Mean(_) | Head::Dense(_) => self.encoder.layer_projections(visit),
        }
    }

    fn freeze_base(self) -> Self {
        Self { encoder: self.encoder.no_grad(), ..self }
    }
}

/// The head's parameters have the paths that they have in a checkpoint: `classifier.weight`,
/// `classifier.out_proj.weight`.
impl CheckpointNames for EncoderClassifier {
    fn checkpoint_name(&self, path: &str) -> String {
        path.strip_prefix("encoder.").map_or_else(|| path.to_owned(), |rest| self.encoder.checkpoint_name(rest))
    }
}

/// Outputs are the logits `[n, classes]`; the loss is the cross-entropy `−log p(label)` of each sample, in nats.
impl Task for EncoderClassifier {
    type Batch = LabelledBatch;

    fn forward(&self, batch: &LabelledBatch, tape: &mut Tape) -> Tensor<2> {
        self.classifier.forward(&self.encoder, &batch.tokens, self.recorded, tape)
    }

    fn loss(&self, outputs: Tensor<2>, batch: &LabelledBatch) -> Tensor<1> {
        cross_entropy(outputs, batch.labels.clone())
    }

    fn likelihood(&self, _: &LabelledBatch) -> Option<Likelihood> {
        Some(Likelihood::new(Family::Softmax))
    }
}

/// `−log softmax(logits)[label]` of each row: `[n, classes]` and `[n]` to `[n]`.
pub(crate) fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    crate::ops::cross_entropy(logits, labels)
}
