use std::path::PathBuf;

use crate::{FormatError, RunDifference};

/// Errors of building, applying and training models.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A setting is outside its range.
    #[error("`{name}` is {value}, but must be {expected}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// The value given.
        value: f64,
        /// The values accepted.
        expected: &'static str,
    },
    /// Something is empty that must not be.
    #[error("there are no {what}")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
    /// A sample has no token, or more than the model accepts.
    #[error("sample {sample} has {tokens} tokens, but the model accepts 1 to {limit}")]
    Length {
        /// The sample's index in the order given.
        sample: usize,
        /// Its number of tokens.
        tokens: usize,
        /// The most tokens that the model accepts.
        limit: usize,
    },
    /// A token is not in the model's vocabulary.
    #[error("sample {sample} contains token {token}, but the vocabulary has {vocabulary}")]
    Token {
        /// The sample's index in the order given.
        sample: usize,
        /// The token.
        token: u32,
        /// The vocabulary's size.
        vocabulary: usize,
    },
    /// A sample does not have one segment per token.
    #[error("sample {sample} has {segments} segments for {tokens} tokens")]
    SegmentCount {
        /// The sample's index in the order given.
        sample: usize,
        /// Its number of segments.
        segments: usize,
        /// Its number of tokens.
        tokens: usize,
    },
    /// A sample has a segment that the model lacks.
    #[error("sample {sample} contains segment {segment}, but the model has {limit}")]
    Segment {
        /// The sample's index in the order given.
        sample: usize,
        /// The segment.
        segment: u32,
        /// The model's number of segments.
        limit: usize,
    },
    /// The head needs a pooler, which the encoder lacks.
    #[error("the encoder has no pooler, which this classification head needs")]
    NoPooler,
    /// A sample has a label outside the classes.
    #[error("sample {sample} has label {label}, but the model has {classes} classes")]
    Label {
        /// The sample's index in the order given.
        sample: usize,
        /// The label.
        label: usize,
        /// The number of classes.
        classes: usize,
    },
    /// No layer of the model matches a target of LoRA.
    #[error("no layer is called `{target}`; the model has {}", known.join(", "))]
    Target {
        /// The target.
        target: String,
        /// The last parts of the names of the model's linear layers.
        known: Vec<String>,
    },
    /// The names of the weights are not those of the module's parameters.
    #[error("the weights do not fit the model: missing {missing:?}, unused {unused:?}")]
    WeightNames {
        /// Parameters of the module without a value.
        missing: Vec<String>,
        /// Values without a parameter.
        unused: Vec<String>,
    },
    /// A weight has another shape than the parameter with its name.
    #[error("weight `{name}` is {found:?}, but the model needs {expected:?}")]
    WeightShape {
        /// The parameter's path.
        name: String,
        /// The shape of the weight.
        found: Vec<usize>,
        /// The parameter's shape.
        expected: Vec<usize>,
    },
    /// The training loss became NaN or infinite.
    #[error("the loss of step {step} is {value}: lower the learning rate ({learning_rate:e} at that step)")]
    Diverged {
        /// The step, from 0.
        step: usize,
        /// The loss.
        value: f64,
        /// The learning rate of that step.
        learning_rate: f64,
    },
    /// The gradient of the training loss became NaN or infinite, or its square overflowed.
    #[error("the gradient of step {step} has norm {norm}: lower the learning rate ({learning_rate:e} at that step)")]
    GradientDiverged {
        /// The step, from 0.
        step: usize,
        /// The norm of the gradient.
        norm: f64,
        /// The learning rate of that step.
        learning_rate: f64,
    },
    /// There is not one weight per sample, or not one loss.
    #[error("there are {weights} weights for the losses of {samples} samples: each sample needs one, and one loss")]
    Weights {
        /// The weights.
        weights: usize,
        /// The samples.
        samples: usize,
    },
    /// A replayed training does not lead to what was recorded.
    #[error(
        "the training cannot be replayed: from step {from} to step {to} {parameter} comes out differently (by {by:e}, of \
         values up to {size:e}): the same program on the same device with the same rows must lead to the same numbers"
    )]
    Replay {
        /// The recorded step from which it was replayed.
        from: usize,
        /// The step at which the numbers differ.
        to: usize,
        /// What differs.
        parameter: String,
        /// The largest difference.
        by: f64,
        /// The largest recorded magnitude.
        size: f64,
    },
    /// A recording cannot be read.
    #[error("the recording {}: {reason}", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A recording belongs to another training.
    #[error("{} records another training: {}", path.display(), shown(differences))]
    RecordingDiffers {
        /// The recording.
        path: PathBuf,
        /// The differences: what was recorded, and what is there.
        differences: Vec<RunDifference>,
    },
    /// The derivative through the training is not finite.
    #[error(
        "the derivative through the training is {value} at step {step}: no displacement of the parameters gives finite \
         losses on both sides, or the training amplifies small changes without bound"
    )]
    Unrolled {
        /// The step, from 0.
        step: usize,
        /// The value.
        value: f64,
    },
    /// A block's parameters have no moments of an optimizer.
    #[error(
        "the parameters of block `{block}` have no moments of AdamW: they were not trained, or several layers share them"
    )]
    NoMetric {
        /// The block.
        block: String,
    },
    /// A file of an optimizer's state cannot be used.
    #[error("the optimizer's state {}: {reason}", path.display())]
    OptimizerState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The moments in a file are not those of the adapter.
    #[error("the moments in {} are not those of the adapter", path.display())]
    Moments {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: Box<crate::LoadError>,
    },
    /// The gradients of a batch could not be taken.
    #[error("the gradients cannot be computed")]
    Gradients(#[from] hyperinf_gradients::GradientError),
    /// Other processes could not take the gradients of their pieces.
    #[error("pieces of a batch could not be shared: {reason}")]
    Helpers {
        /// Why.
        reason: String,
    },
    /// The training loss depends on no trained parameter.
    #[error("the loss depends on no trained parameter: every parameter is frozen")]
    Frozen,
    /// A sample does not have one mark per token.
    #[error("sample {sample} has {tokens} tokens, but {scored} marks for which of them are scored")]
    ScoredLength {
        /// The sample's index in the order given.
        sample: usize,
        /// Its number of tokens.
        tokens: usize,
        /// Its number of marks.
        scored: usize,
    },
    /// The first token of a sample is scored, but no token comes before it.
    #[error("the first token of sample {sample} is scored, but no token comes before it")]
    ScoredFirst {
        /// The sample's index in the order given.
        sample: usize,
    },
    /// No token of a sample is scored.
    #[error("sample {sample} has {tokens} tokens, and none of them is scored")]
    Unscored {
        /// The sample's index in the order given.
        sample: usize,
        /// Its number of tokens.
        tokens: usize,
    },
    /// A sample has other numbers of image tokens and of vectors for them.
    #[error("sample {sample} has {tokens} image tokens for {tiles} images or tiles of {vectors} vectors each")]
    ImageTokens {
        /// The sample's index in the order given.
        sample: usize,
        /// Its image tokens.
        tokens: usize,
        /// Its images or tiles.
        tiles: usize,
        /// The vectors of each.
        vectors: usize,
    },
    /// The images or features of a sample have another size than the model's.
    #[error("sample {sample} has {found} numbers for its images, but the model needs {tile}")]
    Pixels {
        /// The sample's index in the order given.
        sample: usize,
        /// The numbers found.
        found: usize,
        /// The numbers needed.
        tile: usize,
    },
    /// Features were computed by a part of the model that is adapted or recorded.
    #[error("the stored features of sample {sample} are of a part of the model that is adapted or recorded")]
    StaleFeatures {
        /// The sample's index in the order given.
        sample: usize,
    },
    /// The samples of a batch hold their images in different forms.
    #[error("samples {first} and {second} of a batch hold their images in different forms")]
    MixedImages {
        /// A sample.
        first: usize,
        /// A sample with another form.
        second: usize,
    },
    /// A file of stored features cannot be read or written.
    #[error("stored features {}: {reason}", path.display())]
    Features {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The model lacks a part whose gradients are to be taken.
    #[error("the model has no part for `{part}`")]
    NoPart {
        /// The name of the choice.
        part: &'static str,
    },
    /// A logit is NaN or infinite.
    #[error("the logit of token {token} after position {position} is {value}")]
    Logit {
        /// The token.
        token: usize,
        /// The position that predicts it.
        position: usize,
        /// The logit.
        value: f64,
    },
    /// The loss on the validation samples is NaN or infinite.
    #[error("the mean loss of the validation samples is {value}")]
    Validation {
        /// The loss.
        value: f64,
    },
    /// Training was stopped between two steps.
    #[error("training was stopped after {step} of {steps} steps")]
    Stopped {
        /// Steps taken.
        step: usize,
        /// Steps of the whole run.
        steps: usize,
        /// The checkpoint from which the run can continue, if there are checkpoints.
        checkpoint: Option<PathBuf>,
    },
    /// A checkpoint, or its folder, cannot be written.
    #[error("checkpoint `{}` cannot be written", path.display())]
    CheckpointWrite {
        /// The file or its folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint cannot be made or read.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file or its folder.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A new run would write into a folder that holds checkpoints.
    #[error("{} exists already, from step {step}: resume it, or give another folder", path.display())]
    CheckpointExists {
        /// The newest checkpoint.
        path: PathBuf,
        /// The steps taken in it.
        step: usize,
    },
    /// A checkpoint belongs to a run with other settings, weights or data.
    #[error("{} is a checkpoint of another run: {}", path.display(), shown(differences))]
    CheckpointDiffers {
        /// The checkpoint.
        path: PathBuf,
        /// The differences between the two runs.
        differences: Vec<RunDifference>,
    },
    /// A GGUF or llama2.c file cannot be used.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<FormatError>,
    },
    /// A device failed while values were read back.
    #[error("reading values back from the device failed: {0}")]
    Read(String),
}

/// Fails with [`ModelError::Setting`] unless `accepted`.
pub(crate) fn check(accepted: bool, name: &'static str, value: f64, expected: &'static str) -> Result<(), ModelError> {
    if accepted { Ok(()) } else { Err(ModelError::Setting { name, value, expected }) }
}

fn shown(differences: &[RunDifference]) -> String {
    differences.iter().map(RunDifference::to_string).collect::<Vec<_>>().join("; ")
}

impl ModelError {
    /// What is wrong, as the beginning of a message: checkpoints are files, whatever the model.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Checkpoint { .. } | Self::CheckpointExists { .. } | Self::CheckpointDiffers { .. } => {
                "the checkpoints of the training cannot be used"
            }
            Self::CheckpointWrite { .. } => "the training cannot be saved",
            Self::Recording { .. } | Self::RecordingDiffers { .. } | Self::Replay { .. } => {
                "the recording of the training cannot be used"
            }
            Self::OptimizerState { .. } | Self::Moments { .. } | Self::NoMetric { .. } => {
                "the second moments of the optimizer cannot be used"
            }
            Self::Unrolled { .. } => "the training cannot be differentiated",
            Self::Features { .. } => "stored features of images cannot be used",
            _ => "the model does not support this use",
        }
    }
}
