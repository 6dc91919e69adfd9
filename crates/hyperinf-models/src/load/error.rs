use std::path::PathBuf;

use crate::{ModelError, TokenizeError};

/// What can be wrong with the files of a model, a tokenizer or an adapter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// What was looked for is not there.
    #[error("`{}` has no {what}: looked for {looked_for}", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        what: &'static str,
        /// The files that would have been accepted.
        looked_for: &'static str,
    },
    /// A file is not valid JSON, or not of the form expected.
    #[error("`{}` is not as expected: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// An adapter's folder was given where a model is needed.
    #[error(
        "`{}` is an adapter, not a model: load its base model{} and apply the adapter to it",
        path.display(),
        base.as_ref().map(|base| format!(" `{base}`")).unwrap_or_default()
    )]
    IsAdapter {
        /// The folder.
        path: PathBuf,
        /// The base model that the adapter names.
        base: Option<String>,
    },
    /// A model of a type that there is no code for, or another kind than was asked for.
    #[error("`{}` is a model of type `{found}`; {wanted} of these types: {}", path.display(), known.join(", "))]
    ModelType {
        /// The model.
        path: PathBuf,
        /// Its type.
        found: String,
        /// What was to be loaded.
        wanted: &'static str,
        /// The types that can be.
        known: &'static [&'static str],
    },
    /// A setting that is needed is absent.
    #[error("`{}` does not say `{field}`", path.display())]
    FieldMissing {
        /// The file.
        path: PathBuf,
        /// The setting.
        field: String,
    },
    /// A setting has a value that is not computed here.
    #[error("`{}` has `{field}` = {found}, but only {expected} can be used", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The setting.
        field: String,
        /// Its value, as JSON.
        found: String,
        /// The values that can be used.
        expected: String,
    },
    /// The header of a safetensors file is wrong.
    #[error("`{}` is not a valid safetensors file: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A safetensors file is not as long as its header says.
    #[error("`{}` has {found} bytes where its header says {expected}: it is damaged or not complete", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// The bytes that the header describes, itself included.
        expected: u64,
        /// The bytes there are.
        found: u64,
    },
    /// A tensor's numbers are of a type that is not read.
    #[error("tensor `{name}` in `{}` is {found}: only F32, F16, BF16 and F64 are read", path.display())]
    NumberType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// The index names a tensor that is not in the file it names.
    #[error("`{}` says that tensor `{name}` is in `{file}`, which does not have it", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The file named.
        file: String,
    },
    /// Two files hold a tensor of one name.
    #[error("tensor `{name}` is in `{}` and in `{}`", first.display(), second.display())]
    Twice {
        /// The tensor.
        name: String,
        /// The first file.
        first: PathBuf,
        /// The second file.
        second: PathBuf,
    },
    /// The tensors of a model's files are not those of the model.
    #[error("the tensors of `{}` do not fit the model: missing {missing:?}, not used {unused:?}", path.display())]
    TensorNames {
        /// The model.
        path: PathBuf,
        /// Parameters without a tensor, by their names in such files.
        missing: Vec<String>,
        /// Tensors without a parameter.
        unused: Vec<String>,
    },
    /// A tensor has another shape than the parameter.
    #[error("tensor `{name}` of `{}` is {found:?}, but the model needs {expected:?}", path.display())]
    TensorShape {
        /// The model.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape needed, in the file's order.
        expected: Vec<usize>,
    },
    /// The checkpoint is of an encoder alone, and no number of classes was given for a new head.
    #[error("`{}` has no classification head: say how many classes a new one is to have", path.display())]
    NoHead {
        /// The model.
        path: PathBuf,
    },
    /// A tokenizer's file cannot be used.
    #[error("the tokenizer `{}` cannot be used: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A setting of an adapter that is not computed here.
    #[error("the adapter `{}` uses `{setting}` = {found}, but only {expected} can be used", path.display())]
    AdapterSetting {
        /// The adapter's folder.
        path: PathBuf,
        /// The setting.
        setting: String,
        /// Its value, as JSON.
        found: String,
        /// The values that can be used.
        expected: &'static str,
    },
    /// Two entries of an adapter's settings give one layer different values.
    #[error("`{setting}` of the adapter gives layer `{layer}` two values, by `{first}` and by `{second}`")]
    AdapterPattern {
        /// The setting.
        setting: &'static str,
        /// The layer.
        layer: String,
        /// One entry.
        first: String,
        /// The other.
        second: String,
    },
    /// An adapter's factor does not fit the layer it is for.
    #[error(
        "the adapter does not fit this model: `{name}` is {found:?}, but the layer needs {expected:?} (is it of another base model?)"
    )]
    AdapterShape {
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that fits.
        expected: Vec<usize>,
    },
    /// An adapter's factor has another rank than the adapter's settings say.
    #[error("`{name}` has rank {found}, but the adapter's settings say {expected}")]
    AdapterRank {
        /// The tensor.
        name: String,
        /// The rank in the file.
        found: usize,
        /// The rank in the settings.
        expected: usize,
    },
    /// The tensors of an adapter are not those that it is to have for this model.
    #[error("the adapter does not fit this model: missing {missing:?}, not used {unused:?}")]
    AdapterTensors {
        /// Tensors that the settings ask for and the file does not have.
        missing: Vec<String>,
        /// Tensors that fit no layer of the model.
        unused: Vec<String>,
    },
    /// The model to be written has no adapter.
    #[error("the model has no adapter to be written")]
    NotAdapted,
    /// A name is neither a path nor a model on the hub.
    #[error(
        "`{name}` is no file or folder here, and no name of a model on a hub either (those are like `organisation/name`)"
    )]
    NoSuchModel {
        /// The name.
        name: String,
    },
    /// A model on the hub could not be fetched.
    #[error(
        "`{name}` is no file or folder here, and could not be fetched from the hub: {reason}. Without the hub, put the model's `config.json`, `tokenizer.json` and `model.safetensors` (or those of an adapter) into a folder and give its path"
    )]
    Hub {
        /// The name.
        name: String,
        /// The reason.
        reason: String,
    },
    /// A model was refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tokenizer was refused.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
}
