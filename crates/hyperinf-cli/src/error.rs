//! What can go wrong, the exit code it has, and how it is told.

mod told;

use std::io;
use std::path::PathBuf;

use hyperinf::DeviceError;
use hyperinf::eval::{EvalError, TruthError};
use hyperinf::gradients::GradientError;
use hyperinf::linalg::ReadError;
use hyperinf::models::ModelError;
use hyperinf::models::load::LoadError;
use hyperinf::scoring::{ScoreError, Set};
use hyperinf::solvers::SolveError;

use crate::data::{DatasetError, listed};
use crate::demo::DataError;
use crate::gradient_file::{BadValue, FileError};
use crate::output::WriteError;
use crate::score::GroupError;
use crate::sweep::KnownError;
pub(crate) use told::ADAPTER;
use told::differences;

/// Why the program ends without success.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// No method has this name.
    #[error("there is no method `{name}`")]
    Method {
        /// The name given.
        name: String,
        /// The name most like it, if one is like it.
        nearest: Option<&'static str>,
    },
    /// No solver has this name.
    #[error("there is no solver `{name}`; there are {}", .known.join(", "))]
    Solver {
        /// The name given.
        name: String,
        /// All names.
        known: Vec<&'static str>,
    },
    /// A damping that does not damp.
    #[error("{flag} must be positive and finite, not {value}")]
    Damping {
        /// The flag.
        flag: &'static str,
        /// The value given.
        value: f64,
    },
    /// Two choices that contradict each other.
    #[error("{first} and {second} do not go together: {reason}")]
    Combination {
        /// The one.
        first: String,
        /// The other.
        second: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A number out of its range.
    #[error("{flag} must be {expected}, not {value}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What it must be.
        expected: &'static str,
        /// The value given.
        value: f64,
    },
    /// A type that the device does not have.
    #[error("the device {device} has no {precision}")]
    Precision {
        /// The device.
        device: String,
        /// The type.
        precision: &'static str,
    },
    /// A system of equations cannot be solved.
    #[error("the equations cannot be solved")]
    Solve(#[from] SolveError),
    /// A checkpoint is of other samples than the first.
    #[error("the {set} gradients of a checkpoint in `{path}` are of {found} samples, those of the first of {expected}")]
    Checkpoint {
        /// Which gradients.
        set: Set,
        /// The file.
        path: PathBuf,
        /// Samples in it.
        found: usize,
        /// Samples of the first.
        expected: usize,
    },
    /// A file of samples known to be bad cannot be used.
    #[error("the samples known to be bad in `{path}` cannot be used")]
    KnownBad {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KnownError,
    },
    /// With `--strict`: a method of a comparison could not be computed.
    #[error("the method {method} was left out: {reason}")]
    LeftOut {
        /// The method.
        method: &'static str,
        /// Why.
        reason: String,
    },
    /// No method of a comparison could be computed.
    #[error("none of the {methods} methods could be computed; {first}: {reason}")]
    NoneComputed {
        /// Their number.
        methods: usize,
        /// The first of them.
        first: &'static str,
        /// Why it could not.
        reason: String,
    },
    /// A share of wrong labels that leaves no majority of right ones.
    #[error("--noise must be at least 0 and below 0.5, not {value}")]
    Noise {
        /// The value given.
        value: f64,
    },
    /// The device cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The ending of the output file is not one of the formats.
    #[error("the output `{path}` must end in .safetensors, .parquet or .csv")]
    OutputKind {
        /// The path given.
        path: PathBuf,
    },
    /// The output would overwrite an input.
    #[error("the output `{path}` is also an input")]
    OutputIsInput {
        /// The path given.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("the output `{path}` cannot be written")]
    Output {
        /// The file or its folder.
        path: PathBuf,
        /// Why.
        source: WriteError,
    },
    /// Standard output cannot be written, for another reason than that nobody reads on.
    #[error("standard output cannot be written")]
    Stdout(#[source] io::Error),
    /// An input file cannot be used.
    #[error("the {set} gradients in `{path}` cannot be used")]
    File {
        /// Which of the inputs.
        set: Set,
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// The two inputs have blocks of different names.
    #[error("the two files must have the same blocks: {}", differences(.train, .only_train, .query, .only_query))]
    Blocks {
        /// The training gradients.
        train: PathBuf,
        /// Blocks that only they have.
        only_train: Vec<String>,
        /// The query gradients.
        query: PathBuf,
        /// Blocks that only they have.
        only_query: Vec<String>,
    },
    /// A block has different sides in the two inputs.
    #[error(
        "block `{block}` has the shape {train_shape:?} in `{train}` but {query_shape:?} in `{query}`: all but the first number must be equal"
    )]
    Sides {
        /// The block's name.
        block: String,
        /// The training gradients.
        train: PathBuf,
        /// Its shape there.
        train_shape: Vec<usize>,
        /// The query gradients.
        query: PathBuf,
        /// Its shape there.
        query_shape: Vec<usize>,
    },
    /// A file of groups cannot be used.
    #[error("the groups in `{path}` cannot be used")]
    Groups {
        /// The file.
        path: PathBuf,
        /// Why.
        source: GroupError,
    },
    /// NaN or infinity in an input file.
    #[error(
        "the {set} gradients in `{path}` have the value {} in block `{}`, sample {sample}, at {:?}; expected finite numbers",
        .bad.value, .bad.block, .bad.index
    )]
    NonFinite {
        /// Which of the inputs.
        set: Set,
        /// The file.
        path: PathBuf,
        /// The sample's index.
        sample: usize,
        /// The value and its place.
        bad: BadValue,
    },
    /// Numbers so large that their squares overflow.
    #[error(
        "the {set} gradients in `{path}` are too large in block `{block}`, sample {sample}: their squared norm is {square}; expected a finite one"
    )]
    TooLarge {
        /// Which of the inputs.
        set: Set,
        /// The file.
        path: PathBuf,
        /// The block's name.
        block: String,
        /// The sample's index.
        sample: usize,
        /// The squared norm, in the type that is computed in.
        square: f64,
    },
    /// The numbers allow no scores.
    #[error("the scores cannot be computed")]
    Score(#[source] ScoreError),
    /// A score beyond the range of `f32`.
    #[error("the score of training sample {sample} for query {query} is {value:e}: expected at most {:e}", f32::MAX)]
    Range {
        /// The query's index.
        query: usize,
        /// The training sample's index.
        sample: usize,
        /// The score.
        value: f64,
    },
    /// With `--strict`: a solver did not reach its tolerance.
    #[error(
        "{blocks} of {of} blocks did not reach the solver's tolerance: the largest relative residual is {residual:.2e}, in block `{worst}`; expected at most {tolerance:.2e}"
    )]
    NotConverged {
        /// Blocks that did not converge.
        blocks: usize,
        /// All blocks that were inverted.
        of: usize,
        /// The block with the largest residual.
        worst: String,
        /// That residual.
        residual: f64,
        /// What it should have been.
        tolerance: f64,
    },
    /// The demo's data are damaged.
    #[error("the demo's data cannot be used")]
    Data(#[from] DataError),
    /// The model cannot be trained or run.
    #[error("the model cannot be used like this")]
    Model(#[from] ModelError),
    /// Gradients cannot be taken.
    #[error("the gradients cannot be taken")]
    Gradients(#[from] GradientError),
    /// A device failed.
    #[error("the losses cannot be computed")]
    Losses(#[from] ReadError),
    /// A figure of the demo does not exist.
    #[error("the methods cannot be compared")]
    Eval(#[from] EvalError),
    /// A ground truth cannot be had.
    #[error("the truth to judge by cannot be had")]
    Truth(#[from] TruthError),
    /// A data set cannot be used.
    #[error("the {} data in `{path}` cannot be used", .set)]
    Dataset {
        /// Which of the inputs.
        set: Set,
        /// The file.
        path: PathBuf,
        /// Why.
        source: DatasetError,
    },
    /// The model has no adapter, and so nothing whose gradients are taken.
    #[error("the model `{model}` has no adapters, whose gradients are what is scored")]
    NoAdapter {
        /// The model as given.
        model: String,
    },
    /// No block fits the pattern.
    #[error("no block fits --blocks `{pattern}`; the model has {}", listed(.known))]
    NoBlock {
        /// The pattern.
        pattern: String,
        /// The names of the blocks.
        known: Vec<String>,
    },
    /// Nothing says which class a label is.
    #[error(
        "label `{label}` is a name, but neither the model nor the adapter says which of the {classes} classes it is"
    )]
    Unnamed {
        /// The first such label.
        label: String,
        /// The number of classes.
        classes: usize,
    },
    /// No rows, or more than there are.
    #[error("{flag} asks for {asked} rows of {rows}")]
    Amount {
        /// The flag.
        flag: &'static str,
        /// The rows asked for.
        asked: usize,
        /// The rows that can be used.
        rows: usize,
    },
    /// The loss or gradient of a row is NaN or infinite.
    #[error("the {what} of row {row} of the {set} data in `{path}` is {value}, expected a finite number")]
    RowNotFinite {
        /// Which of the inputs.
        set: Set,
        /// The file.
        path: PathBuf,
        /// The row's number in it.
        row: usize,
        /// The loss, or the gradient in a block.
        what: String,
        /// The value.
        value: f64,
    },
    /// There is something already where the adapter is to be written.
    #[error("the folder `{path}` has {what} already")]
    OutputExists {
        /// The folder.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// A longer row than the model takes was asked for.
    #[error("--max-length {asked} is more than the {positions} tokens that the model takes")]
    MaxLength {
        /// The tokens asked for.
        asked: usize,
        /// The tokens that the model takes.
        positions: usize,
    },
    /// A model, an adapter or a tokenizer cannot be loaded.
    #[error("the {what} `{path}` cannot be used")]
    Load {
        /// What it is.
        what: &'static str,
        /// The path or name given.
        path: String,
        /// Why.
        source: Box<LoadError>,
    },
    /// A model whose file has no tokenizer in it.
    #[error("the model `{model}` has no tokenizer in its file")]
    NoTokenizer {
        /// The model as given.
        model: String,
    },
}
