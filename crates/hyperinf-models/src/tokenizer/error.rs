/// Why a row of data gives no sample: what is wrong with its text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// There are more tokens than the limit, and none may be cut.
    #[error("the text has {tokens} tokens, but at most {limit} are accepted")]
    TooLong {
        /// All tokens of the sample, special tokens included.
        tokens: usize,
        /// The most accepted.
        limit: usize,
    },
    /// The special tokens alone are more than the limit.
    #[error("{special} special tokens leave no room for text within {limit} tokens")]
    NoRoom {
        /// The special tokens that the tokenizer adds.
        special: usize,
        /// The most tokens accepted.
        limit: usize,
    },
    /// The text has too few tokens to learn from.
    #[error("the text has {tokens} tokens, but at least {least} are needed")]
    TooShort {
        /// All tokens of the sample, special tokens included.
        tokens: usize,
        /// The fewest accepted.
        least: usize,
    },
    /// A completion without a character.
    #[error("the completion is empty")]
    EmptyCompletion,
    /// Cutting to the limit left nothing to predict.
    #[error("cut to {limit} tokens, nothing of the completion is left: {before} tokens come before it")]
    CompletionCut {
        /// The tokens before the first that is predicted.
        before: usize,
        /// The most tokens accepted.
        limit: usize,
    },
    /// Messages were given, but the tokenizer has no chat template.
    #[error(
        "the tokenizer has no chat template: neither `chat_template.jinja` nor `chat_template` in `tokenizer_config.json`"
    )]
    NoChatTemplate,
    /// The chat template failed or refused the messages.
    #[error("the chat template failed: {0}")]
    ChatTemplate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What the template writes for the first messages is not how it begins the whole conversation.
    #[error(
        "the chat template writes message {message} differently once more messages follow, so its tokens cannot be told from the others"
    )]
    UnstableTemplate {
        /// The assistant's message, counted from 0.
        message: usize,
    },
    /// A message has nothing for a template to write.
    #[error("message {message} has neither a content nor anything else but a role")]
    NoContent {
        /// The message, counted from 0.
        message: usize,
    },
    /// No message is the assistant's.
    #[error("none of the {messages} messages has the role `assistant`, so there is nothing to predict")]
    NoAssistant {
        /// The number of messages.
        messages: usize,
    },
    /// The tokenizer itself failed.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(#[source] Box<dyn std::error::Error + Send + Sync>),
}
