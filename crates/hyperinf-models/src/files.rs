//! Models, tokenizers and adapters on disk and on the hub.

mod autoencoder;
mod clip;
mod decoder_config;
mod diffusers;
mod encoder_config;
mod error;
mod feature_cache;
pub(crate) mod fields;
mod format_error;
mod gguf;
mod gguf_config;
mod gguf_header;
mod gguf_names;
mod gguf_reader;
mod gguf_vocabulary;
mod hub;
#[cfg(feature = "hub")]
mod hub_pipeline;
pub(crate) mod layout;
mod llama2c;
mod load;
mod lora_file;
mod open;
mod own_head;
mod pairs;
pub(crate) mod panics;
mod peft;
mod peft_config;
mod peft_files;
mod peft_modules;
pub(crate) mod peft_names;
mod peft_rules;
mod peft_settings;
mod pieces;
mod pipeline;
mod reward;
mod scheduler;
mod shards;
mod sizes;
mod tensors;
mod tokenizer_class;
mod tokenizer_ends;
mod tokenizer_files;
mod tokenizer_limits;
mod tokenizer_outside;
mod tokenizer_vocabulary;
mod unet;
mod value_cache;
mod vision_language_config;
pub(crate) mod weights;
pub(crate) mod whole;

pub use autoencoder::load_autoencoder;
pub use clip::load_clip_text;
pub use diffusers::{load_pixart, save_pixart};
pub use error::LoadError;
pub use feature_cache::FeatureCache;
pub use format_error::FormatError;
pub use gguf::{GgufVocabulary, gguf_tokenizer, load_gguf};
pub use hub::Hub;
pub use llama2c::{llama2c_tokenizer, load_llama2c};
pub use load::{
    ClassifierOptions, LoadReport, LoadedModel, ModelKind, load_causal_lm, load_classifier, load_encoder,
    load_vision_language, model_kind, vision_language_settings,
};
pub use open::{open_regular, read_regular};
pub use own_head::OwnHead;
pub use panics::{Panicked, guarded, panics_are_errors};
pub use peft::Adapter;
pub use peft_config::{AdapterConfig, AdapterTask, TargetModules, TrainedTokens};
pub use peft_settings::{ADAPTER_SETTINGS, AdapterSetting, Treatment};
pub(crate) use pieces::QWEN2;
pub use pipeline::{load_caption_tokenizer, load_pipeline, save_pipeline_index};
pub use reward::load_preference;
pub use unet::load_unet;
pub use value_cache::ValueCache;
pub use weights::{CheckpointNames, load_weights, weights};
