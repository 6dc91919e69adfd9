use std::path::PathBuf;

use crate::{ModelError, TokenizeError};

/// Errors of loading and writing models, tokenizers and adapters.
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
    /// A folder lacks a model, a tokenizer, weights or an adapter.
    #[error("`{}` has no {what}: looked for {looked_for}", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
        /// The missing part.
        what: &'static str,
        /// The files that would be accepted.
        looked_for: &'static str,
    },
    /// A file is not valid JSON or does not have the expected form.
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
    /// A model of an unsupported type, or of another kind than requested.
    #[error("`{}` is a model of type `{found}`; {wanted} of these types: {}", path.display(), known.join(", "))]
    ModelType {
        /// The model.
        path: PathBuf,
        /// Its type.
        found: String,
        /// What was requested.
        wanted: &'static str,
        /// The supported types.
        known: &'static [&'static str],
    },
    /// A required setting is absent.
    #[error("`{}` does not say `{field}`", path.display())]
    FieldMissing {
        /// The file.
        path: PathBuf,
        /// The setting.
        field: String,
    },
    /// A setting has an unsupported value.
    #[error("`{}` has `{field}` = {found}, but only {expected} can be used", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The setting.
        field: String,
        /// Its value, as JSON.
        found: String,
        /// The supported values.
        expected: String,
    },
    /// A safetensors file has an invalid header.
    #[error("`{}` is not a valid safetensors file: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A safetensors file has another length than its header says.
    #[error("`{}` has {found} bytes where its header says {expected}: it is damaged or not complete", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// The bytes that the header describes, including the header.
        expected: u64,
        /// The bytes of the file.
        found: u64,
    },
    /// A tensor has an unsupported number type.
    #[error("tensor `{name}` in `{}` is {found}: only F32, F16, BF16 and F64 are read", path.display())]
    NumberType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// The index names a file that does not hold the tensor.
    #[error("`{}` says that tensor `{name}` is in `{file}`, which does not have it", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The file named.
        file: String,
    },
    /// The index leads to another folder.
    #[error("`{}` names `{file}`, which is not the name of a file in its folder", path.display())]
    IndexPath {
        /// The index.
        path: PathBuf,
        /// The file named.
        file: String,
    },
    /// Two files hold a tensor of the same name.
    #[error("tensor `{name}` is in `{}` and in `{}`", first.display(), second.display())]
    Twice {
        /// The tensor.
        name: String,
        /// The first file.
        first: PathBuf,
        /// The second file.
        second: PathBuf,
    },
    /// The tensors of the files are not the parameters of the model.
    #[error("the tensors of `{}` do not fit the model: missing {missing:?}, not used {unused:?}", path.display())]
    TensorNames {
        /// The model.
        path: PathBuf,
        /// Parameters without a tensor, by their names in a checkpoint.
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
        /// The shape of the parameter, in the file's order.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the settings of `config.json` say.
    #[error("tensor `{name}` of `{}` is {found:?}, but {settings} asks for {expected}", path.display())]
    Size {
        /// The model.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The settings that differ, with their values.
        settings: String,
        /// The shape that they call for.
        expected: String,
    },
    /// The classification head in a checkpoint is not one that gives a text one of several classes.
    #[error("the model's own head cannot be used: {0}")]
    OwnHead(Box<LoadError>),
    /// The checkpoint has no classification head, and no number of classes was given for a new one.
    #[error("`{}` has no classification head: give the number of classes of a new one", path.display())]
    NoHead {
        /// The model.
        path: PathBuf,
    },
    /// A tokenizer file cannot be used.
    #[error("the tokenizer `{}` cannot be used: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A setting of an adapter has an unsupported value.
    #[error("the adapter `{}` uses `{setting}` = {found}, but only {expected} can be used", path.display())]
    AdapterSetting {
        /// The adapter's folder.
        path: PathBuf,
        /// The setting.
        setting: String,
        /// Its value, as JSON.
        found: String,
        /// The supported values.
        expected: &'static str,
    },
    /// An adapter uses something that is not computed here.
    #[error("the adapter `{}` uses `{setting}` = {found}, which cannot be used: {why}", path.display())]
    AdapterFeature {
        /// The adapter's folder.
        path: PathBuf,
        /// The setting.
        setting: String,
        /// Its value, as JSON.
        found: String,
        /// What it does.
        why: &'static str,
    },
    /// An adapter has tensors for a layer that its settings leave out.
    #[error(
        "the adapter has tensors for layer `{layer}`, but its settings leave that layer out (`target_modules`, `exclude_modules`, `layers_to_transform`, `modules_to_save`)"
    )]
    AdapterLayer {
        /// The layer.
        layer: String,
    },
    /// An adapter has tensors of a kind that is not supported.
    #[error("the adapter holds {what}, which is not supported: {names:?}")]
    AdapterPart {
        /// What they are.
        what: &'static str,
        /// The tensors.
        names: Vec<String>,
    },
    /// An adapter holds a token embedding and another output layer for a model that has one table for both.
    #[error(
        "the adapter holds `{embedding}` and another `{head}`, but the model ties the two and the adapter's settings do not untie them (`modules_to_save`, `ensure_weight_tying`)"
    )]
    AdapterTied {
        /// The tensor of the embedding.
        embedding: String,
        /// The tensor of the output layer.
        head: String,
    },
    /// An adapter was trained after the vocabulary of its base was resized.
    #[error(
        "`{name}` of the adapter has {found} tokens, but the model has {expected}: the adapter was trained after its base was resized; resize the model in the same way and save it"
    )]
    AdapterVocabulary {
        /// The tensor.
        name: String,
        /// Its number of tokens.
        found: usize,
        /// The model's.
        expected: usize,
    },
    /// An adapter replaces the row of a token that the model lacks.
    #[error("the adapter's `trainable_token_indices` has token {token}, but the model has {vocabulary} tokens")]
    AdapterToken {
        /// The token.
        token: usize,
        /// The size of the vocabulary.
        vocabulary: usize,
    },
    /// A tensor of an adapter does not fit the model: probably, the adapter has another base model.
    #[error(
        "the adapter does not fit this model: `{name}` is {found:?}, but the layer needs {expected:?} (does it have another base model?)"
    )]
    AdapterShape {
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape of the parameter, in the file's order.
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
    /// The tensors of an adapter are not those that its settings and the model call for.
    #[error("the adapter does not fit this model: missing {missing:?}, not used {unused:?}")]
    AdapterTensors {
        /// Tensors that the settings require and the file lacks.
        missing: Vec<String>,
        /// Tensors that match no parameter of the model.
        unused: Vec<String>,
    },
    /// A model without an adapter cannot be written as one.
    #[error("the model has no adapter to be written")]
    NotAdapted,
    /// A name is neither a path nor a model on the hub.
    #[error("`{name}` is neither a file or folder nor the name of a model on a hub (such as `organisation/name`)")]
    NoSuchModel {
        /// The name.
        name: String,
    },
    /// A model on the hub could not be fetched.
    #[error(
        "`{name}` is not a file or folder, and could not be fetched from the hub: {reason}. Without the hub, put the model's `config.json`, `tokenizer.json` and `model.safetensors` (or the files of an adapter) into a folder and give its path"
    )]
    Hub {
        /// The name.
        name: String,
        /// The reason.
        reason: String,
    },
    /// The model itself was rejected.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer itself was rejected.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
}
