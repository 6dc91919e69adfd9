//! Models whose training data can be attributed, and their training.
//!
//! | items | what they are |
//! |---|---|
//! | [`EncoderClassifier`], [`Encoder`] | BERT, RoBERTa, MiniLM, with a classification head |
//! | [`CausalLm`], [`Decoder`] | Llama 2 and 3, SmolLM2, Qwen2, Mistral |
//! | [`load`] | both from Hugging Face folders, GGUF and llama2.c files, or by their names on the hub |
//! | [`TextTokenizer`] | samples from texts, pairs, prompts with completions, conversations |
//! | [`adapt`], [`LoraLinear`] | LoRA on any linear layer, named and saved as by PEFT |
//! | [`Adapter`] | PEFT's adapter folders, read and written |
//! | [`finetune`], [`train`] | AdamW with warm-up, checkpoints and early stopping, deterministic from a seed |
//! | [`generate`] | the likeliest continuation |
//! | [`pretrain_masked`] | an encoder from text without labels |
//! | [`ops`] | normalisations, activations and attention, fused where that is faster |
//! | [`weights`], [`load_weights`] | parameters by path |
//!
//! Every model is a [`TextModel`]: a [`hyperinf_gradients::Task`] whose samples can be put into a batch. Models are
//! built on a plain device; [`train`] turns autodiff on and off.

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
mod llama2c;
pub mod load;
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
pub use checkpoint::{Checkpoints, Difference};
pub use classifier::{DenseHead, EncoderClassifier, Head, HeadKind, Recorded};
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
pub use weights::{CheckpointNames, load_weights, weights};
