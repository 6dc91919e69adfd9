use std::io;
use std::path::PathBuf;

use hyperinf_gradients::GradientError;

use crate::EvalError;

/// Why a ground truth cannot be had.
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
        /// Why.
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
    /// There are more or fewer of something than there must be.
    #[error("{found} {what} where {expected} are expected")]
    Count {
        /// What was counted.
        what: &'static str,
        /// The number found.
        found: usize,
        /// The number expected.
        expected: usize,
    },
    /// A setting is out of its range.
    #[error("{name} must be {expected}, not {value}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its range.
        expected: String,
        /// The value given.
        value: f64,
    },
    /// A subset is not a set of samples of the task.
    #[error("a subset must name samples below {samples} in ascending order, each once; entry {index} is {value}")]
    Subset {
        /// The entry.
        index: usize,
        /// The sample named.
        value: usize,
        /// The samples of the task.
        samples: usize,
    },
    /// Trainings that are to be compared take different numbers of steps.
    #[error("training on {samples} samples takes {steps} steps, on all of them {full}: train for equal steps")]
    Steps {
        /// Samples trained on.
        samples: usize,
        /// The steps on them.
        steps: usize,
        /// The steps on all samples.
        full: usize,
    },
    /// A bank's file cannot be read or written.
    #[error("the bank `{path}`")]
    Bank {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line of a bank is not a result, or the first one not its header.
    #[error("line {line} of `{path}` is no line of a bank for {queries} queries")]
    BankLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Queries of the task.
        queries: usize,
        /// What is wrong with it as JSON, if that is what is wrong.
        #[source]
        source: Option<serde_json::Error>,
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
    /// A query has no figure.
    #[error("query {query}")]
    Query {
        /// The query.
        query: usize,
        /// Why.
        #[source]
        source: EvalError,
    },
    /// A figure does not exist.
    #[error(transparent)]
    Figure(#[from] EvalError),
    /// The model gives no gradients.
    #[error(transparent)]
    Gradients(#[from] GradientError),
    /// A minimisation did not end.
    #[error("after {steps} steps the gradient's norm is {norm:.2e}, above {tolerance:.2e}")]
    NotMinimised {
        /// Steps taken.
        steps: usize,
        /// The norm of the gradient.
        norm: f64,
        /// What it should be.
        tolerance: f64,
    },
    /// A proximal response went away from the trained model instead of to a minimum.
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
    /// The built-in data were damaged when the program was built.
    #[error("the built-in digits cannot be unpacked")]
    Digits(#[source] io::Error),
}
