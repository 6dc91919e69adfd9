/// Why a chat template was not read or made no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Not a template that `transformers` would read.
    #[error("line {line}: {reason}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The template does something for which Python raises an exception, or that is not supported.
    #[error("line {line}: {reason}")]
    Failed {
        /// The line, from 1.
        line: usize,
        /// The exception, or what is not supported.
        reason: String,
    },
    /// The template called `raise_exception`.
    #[error("line {line}: {message}")]
    Raised {
        /// The line, from 1.
        line: usize,
        /// The message of the template.
        message: String,
    },
    /// The template asks for more than is allowed.
    #[error("line {line}: more than {limit} {what}")]
    Limit {
        /// The line, from 1.
        line: usize,
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// The thread of the template ended without a result.
    #[error("it could not be run")]
    Thread,
}

/// An error before its line is known.
#[derive(Clone, Debug)]
pub(super) enum Fail {
    Python(String),
    Raised(String),
    Limit { limit: u64, what: &'static str },
}

pub(super) type Outcome<T> = Result<T, Fail>;

/// An error with a message.
pub(super) fn fail<T>(reason: impl Into<String>) -> Outcome<T> {
    Err(Fail::Python(reason.into()))
}

impl Fail {
    pub(super) fn at(self, line: usize) -> TemplateError {
        match self {
            Self::Python(reason) => TemplateError::Failed { line, reason },
            Self::Raised(message) => TemplateError::Raised { line, message },
            Self::Limit { limit, what } => TemplateError::Limit { line, limit, what },
        }
    }
}
