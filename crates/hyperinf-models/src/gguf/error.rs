/// What is wrong with a GGUF or llama2.c file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The file cannot be read, or is not of its format.
    #[error("cannot be read: {0}")]
    Read(String),
    /// The model in the file is of a kind that we do not have.
    #[error("the architecture is `{found}`, but only {known} can be loaded")]
    Architecture {
        /// The architecture in the file.
        found: String,
        /// Those that we have.
        known: &'static str,
    },
    /// The file is one part of several.
    #[error("the file is one of {parts} parts; join them first")]
    Parts {
        /// The number of parts.
        parts: u64,
    },
    /// An entry is absent or not what it must be.
    #[error("`{key}` is {found}, but must be {expected}")]
    Entry {
        /// The entry's name.
        key: String,
        /// What was found.
        found: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// The tensors are not those of the model that the entries describe.
    #[error("the tensors do not fit the model: missing {missing:?}, unused {unused:?}")]
    Tensors {
        /// Tensors that the model needs.
        missing: Vec<String>,
        /// Tensors that it has no use for.
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
    /// A tensor's values are stored in a way that we cannot read.
    #[error("tensor `{name}` is stored as {found}, but only {known} can be read")]
    Storage {
        /// The tensor's name.
        name: String,
        /// Its type.
        found: String,
        /// The types that we have.
        known: &'static str,
    },
    /// A tensor's values lie beyond the end of the file.
    #[error("tensor `{name}` ends at byte {end}, but the file has {length}")]
    Truncated {
        /// The tensor's name.
        name: String,
        /// The byte after its last.
        end: u128,
        /// The file's length.
        length: u64,
    },
    /// The file has another length than its header says.
    #[error("the file has {found} bytes, but by its header {expected}")]
    Length {
        /// The file's length.
        found: u64,
        /// The length that follows from the header.
        expected: u128,
    },
    /// Lists of the vocabulary that belong together differ in length.
    #[error("the vocabulary has {tokens} tokens, but {found} {what}")]
    Lists {
        /// The number of tokens.
        tokens: usize,
        /// What else is listed.
        what: &'static str,
        /// How many.
        found: usize,
    },
    /// A token of the vocabulary cannot be used.
    #[error("token {token} of the vocabulary (`{text}`) is {what}")]
    Token {
        /// The token's number.
        token: usize,
        /// Its text.
        text: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A vocabulary or a way to split text that we do not have.
    #[error("the {what} is `{found}`, but only {known} can be used")]
    Vocabulary {
        /// What is unknown.
        what: &'static str,
        /// Its name.
        found: String,
        /// The names that we have.
        known: &'static str,
    },
    /// The tokenizer cannot be built from the vocabulary.
    #[error("the vocabulary makes no tokenizer: {0}")]
    Tokenizer(String),
}
