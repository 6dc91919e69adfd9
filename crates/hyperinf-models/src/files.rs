//! Models, tokenizers and adapters on disk and on the hub.

mod decoder_config;
mod encoder_config;
mod error;
mod fields;
mod format_error;
mod gguf;
mod gguf_config;
mod gguf_names;
mod gguf_reader;
mod gguf_vocabulary;
mod hub;
mod layout;
mod llama2c;
mod load;
mod peft;
mod peft_config;
mod peft_files;
mod peft_modules;
mod pieces;
mod shards;
mod tensors;
mod tokenizer_files;
pub(crate) mod weights;
pub(crate) mod whole;

pub use error::LoadError;
pub use format_error::FormatError;
pub use gguf::{GgufVocabulary, gguf_tokenizer, load_gguf};
pub use hub::Hub;
pub use llama2c::{llama2c_tokenizer, load_llama2c};
pub use load::{
    ClassifierOptions, LoadReport, LoadedModel, ModelKind, load_causal_lm, load_classifier, load_encoder, model_kind,
};
pub use peft::Adapter;
pub use peft_config::{AdapterConfig, AdapterTask, TargetModules};
pub use weights::{CheckpointNames, load_weights, weights};
