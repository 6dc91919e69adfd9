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
mod classifier;
mod decoder;
mod encoder;
mod error;
mod generate;
mod init;
mod lora;
mod masked;
mod ops;
mod projection;
mod rotary;
mod text_model;
mod train;
mod weights;

pub use adapt::{ALL_LINEAR, Adaptable, adapt};
pub use batch::{LabelledBatch, Sample, TokenBatch};
pub use causal::{CausalLm, LmBatch, LmHead, LmSample};
pub use classifier::{DenseHead, EncoderClassifier, Head, HeadKind, Recorded};
pub use decoder::{AttentionBias, Decoder, DecoderConfig, SlidingWindow};
pub use encoder::{Activation, Encoder, EncoderConfig, EncoderFamily, NormPlacement};
pub use error::ModelError;
pub use generate::generate;
pub use lora::{LoraConfig, LoraLinear, LoraScaling, MergedLora};
pub use masked::pretrain_masked;
pub use projection::Projection;
pub use rotary::{RotaryConfig, RotaryPairing, RotaryScaling};
pub use text_model::TextModel;
pub use train::{Progress, TrainConfig, finetune, train};
pub use weights::{Checkpoint, load_weights, weights};
