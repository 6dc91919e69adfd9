//! From text to samples and batches.

mod chat;
mod chat_functions;
mod json;
mod lm_batch;
mod token_batch;
mod tokenizer;
mod tokenizer_error;

pub use chat::Message;
pub use json::Json;
pub use lm_batch::{LmBatch, LmSample};
pub use token_batch::{LabelledBatch, Sample, TokenBatch};
pub use tokenizer::{Limit, SpecialTokens, TextTokenizer, TokenizedSample, TokenizerSettings};
pub use tokenizer_error::TokenizeError;
