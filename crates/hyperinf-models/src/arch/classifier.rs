use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use hyperinf_gradients::{Family, Likelihood, Tape, Task};
use hyperinf_ops::cross_entropy;

use super::init::Init;
use crate::error::check;
use crate::{
    Adaptable, AdaptableLinear, CheckpointNames, Encoder, Head, HeadKind, LabelledBatch, ModelError, Sample,
    SampleModel, TokenBatch,
};

/// More classes are taken for a mistake: the head's size would follow from a number that nothing else confirms.
const MOST_CLASSES: usize = 65_536;

/// The layers of a classifier that leave a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordedLayers {
    /// The factors of the adapters.
    Adapters,
    /// These and the layers of the head, biases included: every trained parameter.
    #[default]
    AdaptersAndHead,
}

/// An [`Encoder`] with a classification [`Head`].
///
/// [`adapt`](crate::adapt) freezes the encoder and its pooler. The head is trained together with the adapters and is
/// never adapted itself; its blocks have PEFT's names for saved modules, such as `base_model.model.classifier.weight`.
#[derive(Module, Debug)]
pub struct EncoderClassifier {
    /// The encoder.
    pub encoder: Encoder,
    /// The head, trained unless the caller freezes it.
    pub classifier: Head,
    /// The layers that leave a capture.
    #[module(skip)]
    pub recorded: RecordedLayers,
}

impl EncoderClassifier {
    /// An encoder with a new head; equal seeds give equal heads on every device.
    ///
    /// # Errors
    ///
    /// If there are fewer than 2 classes or more than 65,536, or the head needs a pooler and the encoder has none.
    pub fn new(
        encoder: Encoder,
        head: HeadKind,
        classes: usize,
        recorded: RecordedLayers,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let accepted = (2..=MOST_CLASSES).contains(&classes);
        check(accepted, "classes", classes as f64, "at least 2 and at most 65536")?;
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

impl SampleModel for EncoderClassifier {
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

    fn length(sample: &Sample) -> usize {
        sample.tokens.len()
    }

    fn device(&self) -> Device {
        self.encoder.device()
    }
}

impl Adaptable for EncoderClassifier {
    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        match &self.classifier {
            Head::Pooler(_) => self.encoder.visit_layers(visit),
            // These heads do not use the pooler: its adapter would never be trained.
            Head::Mean(_) | Head::Dense(_) => self.encoder.visit_layers_without_pooler(visit),
        }
    }

    fn freeze_base(self) -> Self {
        Self { encoder: self.encoder.no_grad(), ..self }
    }
}

/// The paths of the head's parameters are their names in a checkpoint: `classifier.weight`,
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
