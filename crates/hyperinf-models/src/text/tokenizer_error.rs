use crate::TemplateError;

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
    #[error("the chat template failed: `{file}`, {source}")]
    ChatTemplate {
        /// The template's file.
        file: String,
        /// Why.
        source: TemplateError,
    },
    /// The template takes no content in parts.
    #[error(
        "message {message}: its `content` is a list of parts, which the chat template `{file}` does not take{}",
        .source.as_ref().map(|source| format!(": {source}")).unwrap_or_default()
    )]
    Parts {
        /// The message, from 0.
        message: usize,
        /// The template's file.
        file: String,
        /// How it failed; `None` if it writes the list as Python does.
        source: Option<TemplateError>,
    },
    /// Not one mark of an image for each image.
    #[error("the conversation has {marks} marks of images (`{mark}`) and {images} images")]
    ImageMarks {
        /// The mark.
        mark: String,
        /// The marks.
        marks: usize,
        /// The images.
        images: usize,
    },
    /// Cutting would leave a part of an image.
    #[error("cut to {limit} tokens, {left} of {tokens} image tokens are left: an image cannot be cut")]
    ImageCut {
        /// The limit.
        limit: usize,
        /// The image tokens within it.
        left: usize,
        /// All image tokens.
        tokens: usize,
    },
    /// A variable for the template that has a fixed meaning.
    #[error("`{name}` cannot be given to the chat template as a variable: it has a meaning of its own")]
    ReservedVariable {
        /// The variable.
        name: String,
    },
    /// It is not clear which part of the text is a message.
    #[error(
        "the chat template writes message {message} differently once more messages follow, so its tokens cannot be separated from the others; a template with `{{% generation %}}` around what the assistant writes can be used"
    )]
    UnstableTemplate {
        /// The assistant's message, from 0.
        message: usize,
    },
    /// A prompt that does not end in a message that is answered.
    #[error("the last message of the prompt has the role `{role}`, expected `user` or `tool`")]
    PromptRole {
        /// The role; empty without messages.
        role: String,
    },
    /// A message of weight 0 after a prompt.
    #[error("message {message} of the completion has weight 0, but all after the prompt is scored")]
    UnscoredCompletion {
        /// The message of the completion, from 0.
        message: usize,
    },
    /// A template with `generation` marks that marks nothing.
    #[error("the chat template has `{{% generation %}}` but marks nothing in this conversation")]
    NoMarks,
    /// Marks that cannot be assigned to messages.
    #[error(
        "the chat template marks {marks} parts for {messages} messages of the assistant, so it is not clear which of them have weight 0"
    )]
    MarksAndWeights {
        /// The marks.
        marks: usize,
        /// The messages.
        messages: usize,
    },
    /// All of the assistant's messages have weight 0.
    #[error("all {messages} messages of the assistant have weight 0, so there is nothing to predict")]
    NoScored {
        /// The messages.
        messages: usize,
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
    /// A regular expression of the tokenizer gives up.
    #[error("the search for {pattern:?} in a text of {bytes} bytes gives up, and its tokens would be wrong: {source}")]
    Search {
        /// The regular expression.
        pattern: String,
        /// The length of the text.
        bytes: usize,
        /// Why.
        source: Box<fancy_regex::Error>,
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
