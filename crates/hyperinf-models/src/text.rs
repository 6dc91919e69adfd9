//! From text to samples and batches.

mod chat;
mod clip_tokenizer;
mod image_prompt;
mod json;
mod lm_batch;
mod message;
mod token_batch;
mod tokenizer;
mod tokenizer_error;
mod tokenizer_growth;
mod tokenizer_notice;
mod tokenizer_saved;
mod tokenizer_searches;
mod vlm_batch;

pub use chat::{ChatSource, Conversation};
pub use clip_tokenizer::ClipTokenizer;
pub use json::Json;
pub(crate) use lm_batch::mean_states;
pub use lm_batch::{LmBatch, LmSample};
pub use message::{Message, MessageError};
pub use token_batch::{LabelledBatch, Sample, TokenBatch};
pub(crate) use tokenizer::around;
pub use tokenizer::{Limit, SpecialTokens, TextTokenizer, TokenizedSample, TokenizerSettings};
pub use tokenizer_error::TokenizeError;
pub(crate) use tokenizer_growth::Growth;
pub use tokenizer_notice::TokenizerNotice;
pub use tokenizer_saved::TOKENIZER_FILES;
pub use vlm_batch::{FeatureStage, Images, Visual, VlmBatch, VlmSample};
