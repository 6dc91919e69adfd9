use std::path::PathBuf;

use crate::checkpoint::Difference;

/// What data, weights or settings can do wrong while models are built and trained.
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
    /// There is nothing to work on.
    #[error("there are no {what}")]
    Empty {
        /// What is missing.
        what: &'static str,
    },
    /// A sample has no token, or more than the model has positions.
    #[error("sample {sample} has {tokens} tokens, but the model takes 1 to {limit}")]
    Length {
        /// The sample's index in the order given.
        sample: usize,
        /// Its number of tokens.
        tokens: usize,
        /// The model's number of positions.
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
    /// A segment is not one of the model's.
    #[error("sample {sample} contains segment {segment}, but the model has {limit}")]
    Segment {
        /// The sample's index in the order given.
        sample: usize,
        /// The segment.
        segment: u32,
        /// The number of segments.
        limit: usize,
    },
    /// A head needs a layer that the encoder does not have.
    #[error("the encoder has no pooler, which this classification head needs")]
    NoPooler,
    /// A label is not one of the classes.
    #[error("sample {sample} has label {label}, but the model has {classes} classes")]
    Label {
        /// The sample's index in the order given.
        sample: usize,
        /// The label.
        label: usize,
        /// The number of classes.
        classes: usize,
    },
    /// A layer to adapt is none of the model's.
    #[error("no layer is called `{target}`; the model has {}", known.join(", "))]
    Target {
        /// The name given.
        target: String,
        /// The last parts of the names of the model's linear layers.
        known: Vec<String>,
    },
    /// The names of a set of weights are not the module's.
    #[error("the weights do not fit the model: missing {missing:?}, unused {unused:?}")]
    WeightNames {
        /// Parameters of the module without a value.
        missing: Vec<String>,
        /// Values without a parameter.
        unused: Vec<String>,
    },
    /// A weight has another shape than the parameter of that name.
    #[error("weight `{name}` is {found:?}, but the model needs {expected:?}")]
    WeightShape {
        /// The parameter's path.
        name: String,
        /// The shape given.
        found: Vec<usize>,
        /// The parameter's shape.
        expected: Vec<usize>,
    },
    /// The training loss became NaN or infinite.
    #[error("the loss of step {step} is {value}: lower the learning rate ({learning_rate:e} at that step)")]
    Diverged {
        /// The step, from 0.
        step: usize,
        /// The loss found.
        value: f64,
        /// The learning rate of that step.
        learning_rate: f64,
    },
    /// The gradient of the training loss became NaN or infinite, or too large for its square to be a number.
    #[error("the gradient of step {step} has norm {norm}: lower the learning rate ({learning_rate:e} at that step)")]
    GradientDiverged {
        /// The step, from 0.
        step: usize,
        /// The norm found.
        norm: f64,
        /// The learning rate of that step.
        learning_rate: f64,
    },
    /// The training loss depends on no parameter that is trained.
    #[error("the loss depends on no trained parameter: every parameter is frozen")]
    Frozen,
    /// A sample has as many marks as tokens, or it cannot be scored.
    #[error("sample {sample} has {tokens} tokens, but {scored} marks of which are scored")]
    ScoredLength {
        /// The sample's index in the order given.
        sample: usize,
        /// Its number of tokens.
        tokens: usize,
        /// Its number of marks.
        scored: usize,
    },
    /// The first token of a sample is to be predicted from nothing.
    #[error("the first token of sample {sample} is scored, but nothing stands before it")]
    ScoredFirst {
        /// The sample's index in the order given.
        sample: usize,
    },
    /// No token of a sample counts in its loss.
    #[error("sample {sample} has {tokens} tokens, and none of them is scored")]
    Unscored {
        /// The sample's index in the order given.
        sample: usize,
        /// Its number of tokens.
        tokens: usize,
    },
    /// A logit is NaN or infinite.
    #[error("the logit of token {token} after position {position} is {value}")]
    Logit {
        /// The token.
        token: usize,
        /// The position that predicts it.
        position: usize,
        /// The logit found.
        value: f64,
    },
    /// The loss on the validation samples is NaN or infinite.
    #[error("the mean loss of the validation samples is {value}")]
    Validation {
        /// The loss found.
        value: f64,
    },
    /// A checkpoint cannot be written or read.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file or its folder.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A new run would write beside the checkpoints of another one.
    #[error("{} is there already, after step {step}: resume it, or give another folder", path.display())]
    CheckpointExists {
        /// The newest checkpoint.
        path: PathBuf,
        /// The steps taken in it.
        step: usize,
    },
    /// A checkpoint is of a run with other settings, weights or data.
    #[error("{} is a checkpoint of another run: {}", path.display(), shown(differences))]
    CheckpointDiffers {
        /// The checkpoint.
        path: PathBuf,
        /// In what the two runs differ.
        differences: Vec<Difference>,
    },
    /// A GGUF or llama2.c file is not as it must be.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: crate::FormatError,
    },
    /// A device failed while values were read back.
    #[error("reading values back from the device failed: {0}")]
    Read(String),
}

/// Fails with [`ModelError::Setting`] unless `accepted`.
pub(crate) fn check(accepted: bool, name: &'static str, value: f64, expected: &'static str) -> Result<(), ModelError> {
    if accepted { Ok(()) } else { Err(ModelError::Setting { name, value, expected }) }
}

fn shown(differences: &[Difference]) -> String {
    differences.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ")
}
