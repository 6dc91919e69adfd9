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
mod classifier;
mod encoder;
mod error;
mod init;
mod lora;
mod masked;
mod ops;
mod projection;
mod text_model;
mod train;
mod weights;

pub use adapt::{ALL_LINEAR, Adaptable, adapt};
pub use batch::{LabelledBatch, Sample, TokenBatch};
pub use classifier::{EncoderClassifier, Recorded};
pub use encoder::{Encoder, EncoderConfig, LoraTarget};
pub use error::ModelError;
pub use lora::{LoraConfig, LoraLinear, LoraScaling, MergedLora};
pub use masked::pretrain_masked;
pub use projection::Projection;
pub use text_model::TextModel;
pub use train::{Progress, TrainConfig, finetune, train};
pub use weights::{Checkpoint, load_weights, weights};
