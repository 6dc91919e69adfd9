/// Errors in GGUF and llama2.c files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The file cannot be read or does not have its format.
    #[error("cannot be read: {0}")]
    Read(String),
    /// The model has an unsupported architecture.
    #[error("the architecture is `{found}`, but only {known} can be loaded")]
    Architecture {
        /// The architecture in the file.
        found: String,
        /// The supported architectures.
        known: &'static str,
    },
    /// The file is one part of several.
    #[error("the file is one of {parts} parts; join them first")]
    Parts {
        /// The number of parts.
        parts: u64,
    },
    /// An entry is absent or has an unsupported value.
    #[error("`{key}` is {found}, but must be {expected}")]
    Entry {
        /// The entry's name.
        key: String,
        /// Its value.
        found: String,
        /// The accepted values.
        expected: &'static str,
    },
    /// The tensors are not those of the model that the entries describe.
    #[error("the tensors do not fit the model: missing {missing:?}, unused {unused:?}")]
    Tensors {
        /// Tensors that the model needs.
        missing: Vec<String>,
        /// Tensors that the model does not use.
        unused: Vec<String>,
    },
    /// A tensor has another shape than the model needs.
    #[error("tensor `{name}` is {found:?}, but the model needs {expected:?} (innermost first)")]
    Shape {
        /// The tensor's name.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the entries call for.
    #[error("tensor `{name}` is {found:?}, but {settings} asks for {expected} (innermost first)")]
    Size {
        /// The tensor's name.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The entries that differ, with their values.
        settings: String,
        /// The shape that they call for.
        expected: String,
    },
    /// A tensor has an unsupported type.
    #[error("tensor `{name}` is stored as {found}, but only {known} can be read")]
    Storage {
        /// The tensor's name.
        name: String,
        /// Its type.
        found: String,
        /// The supported types.
        known: &'static str,
    },
    /// A tensor extends beyond the end of the file.
    #[error("tensor `{name}` ends at byte {end}, but the file has {length}")]
    Truncated {
        /// The tensor's name.
        name: String,
        /// The end of the tensor, in bytes.
        end: u128,
        /// The file's length.
        length: u64,
    },
    /// The file has another length than its header says.
    #[error("the file has {found} bytes, but its header says {expected}")]
    Length {
        /// The file's length.
        found: u64,
        /// The length that follows from the header.
        expected: u128,
    },
    /// Two lists of the vocabulary differ in length.
    #[error("the vocabulary has {tokens} tokens, but {found} {what}")]
    Lists {
        /// The number of tokens.
        tokens: usize,
        /// The other list.
        what: &'static str,
        /// Its length.
        found: usize,
    },
    /// A token of the vocabulary cannot be used.
    #[error("token {token} of the vocabulary (`{text}`) is {what}")]
    Token {
        /// The token's id.
        token: usize,
        /// Its text.
        text: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The vocabulary or its way to split text is unsupported.
    #[error("the {what} is `{found}`, but only {known} can be used")]
    Vocabulary {
        /// The unsupported part.
        what: &'static str,
        /// Its name.
        found: String,
        /// The supported names.
        known: &'static str,
    },
    /// The tokenizer cannot be built from the vocabulary.
    #[error("no tokenizer can be built from the vocabulary: {0}")]
    Tokenizer(String),
}
