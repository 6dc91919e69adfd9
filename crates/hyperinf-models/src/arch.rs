//! Architectures, and the adapters of their layers.

mod adapt;
mod adaptable_linear;
pub(crate) mod builder;
mod causal;
mod classifier;
mod decoder;
mod decoder_config;
mod decoder_layer;
mod encoder;
mod encoder_config;
mod encoder_layer;
mod encoder_names;
mod generate;
mod head;
mod init;
mod lora;
mod lora_embedding;
pub(crate) mod parameters;
mod rotary;
mod sample_model;

pub use adapt::{ALL_LINEAR, Adaptable, adapt};
pub use adaptable_linear::AdaptableLinear;
pub use causal::{CausalLm, LmHead};
pub use classifier::{EncoderClassifier, RecordedLayers};
pub use decoder::Decoder;
pub use decoder_config::{AttentionBias, DecoderConfig, SlidingWindow};
pub use encoder::Encoder;
pub use encoder_config::{Activation, EncoderConfig, EncoderFamily, NormPlacement};
pub use generate::generate;
pub use head::{DenseHead, Head, HeadKind};
pub use lora::{LoraConfig, LoraLinear, LoraScaling, MergedLora};
pub use lora_embedding::{AdaptableEmbedding, LoraEmbedding};
pub use rotary::{RotaryConfig, RotaryPairing, RotaryScaling};
pub use sample_model::SampleModel;
