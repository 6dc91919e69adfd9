//! Models whose training data can be attributed, and their training.
//!
//! | item | what it is |
//! |---|---|
//! | [`LoraLinear`] | a frozen linear layer with a recorded low-rank adapter |
//! | [`Encoder`], [`EncoderClassifier`] | a small pre-LN transformer; the classifier is a [`hyperinf_gradients::Task`] |
//! | [`finetune`], [`train`] | AdamW with warm-up, deterministic from a seed |
//! | [`pretrain_masked`] | an encoder from text without labels |
//! | [`weights`], [`load_weights`] | parameters by path |
//!
//! Models are built on a plain device; [`train`] turns autodiff on and off.

mod adapt;
mod batch;
mod causal;
mod chat;
mod checkpoint;
mod classifier;
mod decoder;
mod encoder;
mod error;
mod finetune;
mod generate;
mod gguf;
mod hub;
mod init;
pub mod load;
mod llama2c;
mod lora;
mod masked;
pub mod ops;
mod optimizer;
mod peft;
mod projection;
mod rotary;
mod shards;
mod text_model;
mod tokenizer;
mod train;
mod weights;

pub use adapt::{ALL_LINEAR, Adaptable, adapt};
pub use batch::{LabelledBatch, Sample, TokenBatch};
pub use causal::{CausalLm, LmBatch, LmHead, LmSample};
pub use chat::Message;
pub use classifier::{DenseHead, EncoderClassifier, Head, HeadKind, Recorded};
pub use checkpoint::{Checkpoints, Difference};
pub use decoder::{AttentionBias, Decoder, DecoderConfig, SlidingWindow};
pub use encoder::{Activation, Encoder, EncoderConfig, EncoderFamily, NormPlacement};
pub use error::ModelError;
pub use finetune::{Evaluation, FinetuneConfig, Finetuned, finetune};
pub use generate::generate;
pub use gguf::{FormatError, GgufVocabulary, gguf_tokenizer, load_gguf};
pub use llama2c::{llama2c_tokenizer, load_llama2c};
pub use load::LoadError;
pub use lora::{LoraConfig, LoraLinear, LoraScaling, MergedLora};
pub use masked::pretrain_masked;
pub use peft::{Adapter, AdapterConfig, AdapterTask, TargetModules};
pub use projection::Projection;
pub use rotary::{RotaryConfig, RotaryPairing, RotaryScaling};
pub use text_model::TextModel;
pub use tokenizer::{Limit, SpecialTokens, TextTokenizer, TokenizeError, Tokenized, TokenizerSettings};
pub use train::{Progress, TrainConfig, train};
pub use weights::{Checkpoint, load_weights, weights};
