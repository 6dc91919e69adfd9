use std::io;
use std::path::PathBuf;

use hyperinf_gradients::GradientError;
use hyperinf_scoring::ScoreError;

use crate::EvalError;

/// Why a ground truth could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TruthError {
    /// A training failed.
    #[error("training on {samples} samples with seed {seed} failed")]
    Retrain {
        /// Samples trained on.
        samples: usize,
        /// The seed.
        seed: u64,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A training gave a loss that is NaN or infinite.
    #[error("query {query} has the loss {value} after training on {samples} samples with seed {seed}")]
    Loss {
        /// The query.
        query: usize,
        /// Its loss.
        value: f64,
        /// Samples trained on.
        samples: usize,
        /// The seed.
        seed: u64,
    },
    /// A count differs from the one expected.
    #[error("{found} {what} where {expected} are expected")]
    Count {
        /// The things counted.
        what: &'static str,
        /// The number found.
        found: usize,
        /// The number expected.
        expected: usize,
    },
    /// A setting is out of range.
    #[error("{name} must be {expected}, not {value}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its range.
        expected: String,
        /// The value given.
        value: f64,
    },
    /// A subset is not an ascending list of the task's samples.
    #[error("a subset must name samples below {samples} in ascending order, each once; entry {index} is {value}")]
    Subset {
        /// The entry.
        index: usize,
        /// The sample named.
        value: usize,
        /// The samples of the task.
        samples: usize,
    },
    /// Trainings to be compared take different numbers of steps.
    #[error("training on {samples} samples takes {steps} steps, on all of them {full}: train for equal steps")]
    Steps {
        /// Samples trained on.
        samples: usize,
        /// The steps on them.
        steps: usize,
        /// The steps on all samples.
        full: usize,
    },
    /// A bank's file could not be read or written.
    #[error("the bank `{path}` could not be read or written")]
    Bank {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A line of a bank is not a result, or the first line is not its header.
    #[error("line {line} of `{path}` is no line of a bank for {queries} queries")]
    BankLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Queries of the task.
        queries: usize,
        /// The JSON error, if the line is not JSON of the right form.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// A line of a bank is not what was written.
    #[error(
        "line {line} of the bank `{path}` is damaged: its hash is another one; without the line it is trained again"
    )]
    DamagedLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A bank belongs to another task.
    #[error("the bank `{path}` belongs to another task: `{found}`, not `{expected}`")]
    OtherTask {
        /// The file.
        path: PathBuf,
        /// The fingerprint in the file.
        found: String,
        /// The fingerprint of the task.
        expected: String,
    },
    /// A query's figure is undefined.
    #[error("query {query}")]
    Query {
        /// The query.
        query: usize,
        /// The cause.
        #[source]
        source: EvalError,
    },
    /// A figure is undefined.
    #[error(transparent)]
    Figure(#[from] EvalError),
    /// The model's gradients could not be taken.
    #[error(transparent)]
    Gradients(#[from] GradientError),
    /// A candidate's scores could not be computed.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// A minimisation did not converge.
    #[error("after {steps} steps the gradient's norm is {norm:.2e}, above {tolerance:.2e}")]
    NotMinimised {
        /// Steps taken.
        steps: usize,
        /// The norm of the gradient.
        norm: f64,
        /// The norm required.
        tolerance: f64,
    },
    /// A proximal response moved away from the trained model instead of towards a minimum.
    #[error(
        "the response to sample {sample} at λ = {lambda:.2e} has no minimum near the trained model: the gradient ended at {residual:.1e} of its first norm, expected below 1"
    )]
    Diverged {
        /// The training sample.
        sample: usize,
        /// λ of the proximity.
        lambda: f64,
        /// The norm of the last gradient over that of the first.
        residual: f64,
    },
    /// A matrix that must be positive definite is not.
    #[error("the Hessian of {parameters} parameters is not positive definite: raise the penalty, which is {penalty}")]
    NotPositiveDefinite {
        /// Its size.
        parameters: usize,
        /// The penalty on squared parameters.
        penalty: f64,
    },
    /// The perceptron is too large.
    #[error(
        "{what} with a perceptron of {weights:.2e} weights needs about {needed_gib:.1} GiB of memory, and {available_gib:.1} GiB are available"
    )]
    Memory {
        /// The step: training, or a method.
        what: String,
        /// Its weights.
        weights: f64,
        /// The memory needed, in GiB.
        needed_gib: f64,
        /// The memory available.
        available_gib: f64,
    },
    /// The built-in images are damaged.
    #[error("the built-in digits cannot be unpacked")]
    Digits(#[source] io::Error),
}
