/// Errors of making a sample from text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The text has more tokens than the limit, and none may be cut.
    #[error("the text has {tokens} tokens, but at most {limit} are accepted")]
    TooLong {
        /// The tokens of the sample, including special tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// The special tokens alone reach the limit.
    #[error("{special} special tokens leave no room for text within {limit} tokens")]
    NoRoom {
        /// The number of special tokens.
        special: usize,
        /// The limit.
        limit: usize,
    },
    /// The text has too few tokens to learn from.
    #[error("the text has {tokens} tokens, but at least {least} are needed")]
    TooShort {
        /// The tokens of the sample, including special tokens.
        tokens: usize,
        /// The fewest tokens accepted.
        least: usize,
    },
    /// The completion is empty.
    #[error("the completion is empty")]
    EmptyCompletion,
    /// Cutting to the limit leaves nothing to predict.
    #[error("cut to {limit} tokens, nothing of the completion is left: {before} tokens come before it")]
    CompletionCut {
        /// The tokens before the first predicted one.
        before: usize,
        /// The limit.
        limit: usize,
    },
    /// Messages were given, but the tokenizer has no chat template.
    #[error(
        "the tokenizer has no chat template: neither `chat_template.jinja` nor `chat_template` in `tokenizer_config.json`"
    )]
    NoChatTemplate,
    /// The chat template failed or rejected the messages.
    #[error("the chat template failed: {0}")]
    ChatTemplate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The template writes the first messages differently than at the start of the whole conversation.
    #[error(
        "the chat template writes message {message} differently once more messages follow, so its tokens cannot be separated from the others"
    )]
    UnstableTemplate {
        /// The assistant's message, from 0.
        message: usize,
    },
    /// A message is empty.
    #[error("message {message} has a role, but neither content nor any other field")]
    NoContent {
        /// The message, from 0.
        message: usize,
    },
    /// No message is the assistant's.
    #[error("none of the {messages} messages has the role `assistant`, so there is nothing to predict")]
    NoAssistant {
        /// The number of messages.
        messages: usize,
    },
    /// The tokenizer's normalizer makes a text too long.
    #[error(
        "the tokenizer's normalizer makes a text of {bytes} bytes longer than {limit}, more than any real one does"
    )]
    Growth {
        /// The length of the text.
        bytes: usize,
        /// The limit on the normalized text.
        limit: u64,
    },
    /// An error of a tokenizer that was read from a file.
    #[error("`{}`: {source}", path.display())]
    InFile {
        /// The file.
        path: std::path::PathBuf,
        /// The error.
        source: Box<TokenizeError>,
    },
    /// The tokenizer itself failed.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(#[source] Box<dyn std::error::Error + Send + Sync>),
}
