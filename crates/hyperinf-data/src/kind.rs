use std::borrow::Borrow;

use burn::tensor::{Device, Tensor};
use hyperinf_gradients::Estimate;
use hyperinf_models::{
    Adaptable, Adapter, CheckpointNames, Limit, LoadError, ModelKind, SampleModel, TextTokenizer, TokenizedSample,
    TrainConfig,
};
use serde_json::Value;

use crate::dataset::{Content, Dataset};
use crate::event::Event;
use crate::labels::Labels;
use crate::model_files::ModelFiles;
use crate::prediction::Prediction;
use crate::{Notice, Reason, RunError};

/// A kind of model: how its files are loaded, and how a row becomes a sample.
///
/// Reading rows, batches of similar length, gradients with their journal, scores and fine-tuning are generic over it.
/// A new kind is one file in `kinds/` with an `impl` of this trait and of [`Content`], and one entry in the list of
/// all kinds.
pub trait Kind: Send + Sync + Sized + 'static {
    /// The model.
    type Model: SampleModel + Adaptable + CheckpointNames + Sync;
    /// The content of a row.
    type Content: Content;
    /// Turns content into samples: a tokenizer, the labels of the classes, an image processor.
    type Processor: Send + Sync;
    /// What turns content into tokens without the model.
    type Reader: Borrow<TextTokenizer> + Sync;

    /// The name in summaries.
    const NAME: &'static str;
    /// The default limit on a sample's tokens, without one from the user or the adapter; at most the model's own limit.
    const USUAL_LENGTH: usize;
    /// The layers that fine-tuning adapts by default, by the ends of their names.
    const ADAPTED: &'static [&'static str];
    /// Whether rows are pairs of answers, which a run asks for by their loss.
    const PAIRS: bool = false;
    /// Whether samples have images, which frozen parts of the model read.
    const IMAGES: bool = false;
    /// What the lengths of samples are counted in.
    const UNIT: &'static str = "tokens";

    /// The usual training.
    fn training() -> TrainConfig;

    /// Whether models of this architecture are of this kind.
    fn matches(kind: ModelKind) -> bool;

    /// Loads the model with its adapter, if it has one, and checks the labels of the rows.
    ///
    /// # Errors
    ///
    /// If a file cannot be used, the adapter does not fit, or labels cannot be mapped to classes.
    fn load(
        files: &ModelFiles,
        adapter: Option<&Adapter>,
        rows: &Dataset<Self::Content>,
        device: &Device,
    ) -> Result<Prepared<Self>, RunError>;

    /// Loads the model for fine-tuning on the training rows; `seed` decides the weights of a new head.
    ///
    /// # Errors
    ///
    /// If a file cannot be used, or the rows are no training data for such a model.
    fn load_base(
        files: &ModelFiles,
        train: &Dataset<Self::Content>,
        seed: u64,
        device: &Device,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Prepared<Self>, RunError>;

    /// Brings the processor in line with a model whose layers were adapted or recorded since it was loaded.
    ///
    /// # Errors
    ///
    /// If a file or folder cannot be used.
    fn changed(prepared: &mut Prepared<Self>, files: &ModelFiles) -> Result<(), RunError> {
        let _ = (prepared, files);
        Ok(())
    }

    /// Settings of the loss that samples do not hold, for summaries; gradients of others are not reused.
    fn settings(model: &Self::Model) -> Option<Value> {
        let _ = model;
        None
    }

    /// Files that an adapter's folder gets besides PEFT's.
    ///
    /// # Errors
    ///
    /// If the adapter cannot be written in such a format.
    fn more_files(model: &Self::Model, adapter: &Adapter) -> Result<Vec<(&'static str, Vec<u8>)>, LoadError> {
        let _ = (model, adapter);
        Ok(Vec::new())
    }

    /// The labels of a classifier.
    fn labels(processor: &Self::Processor) -> Option<&Labels> {
        let _ = processor;
        None
    }

    /// The tokenizer of a kind that reads text.
    fn tokenizer(processor: &Self::Processor) -> Option<&TextTokenizer> {
        let _ = processor;
        None
    }

    /// The most tokens that the model accepts.
    fn positions(model: &Self::Model) -> usize;

    /// The sample of a row.
    ///
    /// # Errors
    ///
    /// If the row makes no sample: it is too long, has an unknown label, tokens beyond the vocabulary, …
    fn sample(
        prepared: &Prepared<Self>,
        content: &Self::Content,
        limit: Limit,
    ) -> Result<TokenizedSample<<Self::Model as SampleModel>::Sample>, Reason>;

    /// Loads what is needed for [`tokens`](Self::tokens).
    ///
    /// # Errors
    ///
    /// If a file cannot be used.
    fn reader(files: &ModelFiles) -> Result<Self::Reader, RunError>;

    /// The tokens of a row, and whether each is part of the loss; without the model.
    ///
    /// # Errors
    ///
    /// If the row makes no sample.
    fn tokens(
        reader: &Self::Reader,
        content: &Self::Content,
        limit: Limit,
    ) -> Result<TokenizedSample<Vec<(u32, bool)>>, Reason>;

    /// The tokens of a sample, one per position of the model's layers; `None` if its positions are none.
    fn token_ids(sample: &<Self::Model as SampleModel>::Sample) -> Option<Vec<u32>> {
        let _ = sample;
        None
    }

    /// What the user should know about how these rows are read.
    fn row_notices(tokenizer: &TextTokenizer, data: &Dataset<Self::Content>) -> Vec<Notice> {
        let _ = (tokenizer, data);
        Vec::new()
    }

    /// What the model predicts for samples, in one forward pass.
    ///
    /// # Errors
    ///
    /// If a sample does not fit the model, or the device fails.
    fn predict(
        model: &Self::Model,
        samples: &[&<Self::Model as SampleModel>::Sample],
    ) -> Result<Vec<Prediction>, RunError>;

    /// The mean of the last hidden states over the tokens of each sample, `[n, d]`, in one forward pass.
    ///
    /// # Errors
    ///
    /// [`RunError::NoStates`] for a kind without them; or if a sample does not fit the model.
    fn states(model: &Self::Model, samples: &[&<Self::Model as SampleModel>::Sample]) -> Result<Tensor<2>, RunError> {
        let _ = (model, samples);
        Err(RunError::NoStates { kind: Self::NAME })
    }

    /// The prediction for a sample from its loss, where that says everything: then the model need not run.
    fn prediction_of_loss(
        model: &Self::Model,
        sample: &<Self::Model as SampleModel>::Sample,
        loss: f64,
    ) -> Option<Prediction>;

    /// Everything in a sample that its gradient depends on. Journals of gradients are keyed by it: it must not change.
    fn bytes(sample: &<Self::Model as SampleModel>::Sample) -> Vec<u8>;

    /// Refuses an estimate of the curvature that is out of reach for such models.
    ///
    /// # Errors
    ///
    /// [`RunError::Conflict`].
    fn check_estimate(estimate: Estimate) -> Result<(), RunError> {
        let _ = estimate;
        Ok(())
    }
}

/// A model that is ready to take samples.
pub struct Prepared<K: Kind> {
    /// The model.
    pub model: K::Model,
    /// Turns content into samples.
    pub processor: K::Processor,
}

impl<K: Kind> Prepared<K> {
    /// Reports how the tokenizer's files were read.
    pub(crate) fn notify_of_tokenizer(&self, observe: &mut dyn FnMut(Event)) {
        let notices = K::tokenizer(&self.processor).map_or(&[][..], TextTokenizer::notices);
        notices.iter().for_each(|notice| observe(Event::Notice(Notice::Tokenizer(notice.clone()))));
    }
}

/// Checks that the model knows all tokens of a sample.
pub(crate) fn known_tokens(tokens: &[u32], vocabulary: usize) -> Result<(), Reason> {
    match tokens.iter().find(|&&token| token as usize >= vocabulary) {
        Some(&token) => Err(Reason::Vocabulary { token, vocabulary }),
        None => Ok(()),
    }
}
