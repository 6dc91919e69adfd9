//! From text to samples and batches.

mod chat;
mod json;
mod lm_batch;
mod message;
mod token_batch;
mod tokenizer;
mod tokenizer_error;

pub use chat::{ChatSource, Conversation};
pub use json::Json;
pub use lm_batch::{LmBatch, LmSample};
pub use message::{Message, MessageError};
pub use token_batch::{LabelledBatch, Sample, TokenBatch};
pub use tokenizer::{Limit, SpecialTokens, TextTokenizer, TokenizedSample, TokenizerSettings};
pub use tokenizer_error::TokenizeError;
