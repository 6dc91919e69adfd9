//! Diffusion: noise, targets, denoisers, and sampling from them.

mod config;
mod embedding;
mod noise;
mod pixart;
mod pixart_block;
mod process;
mod sampler;
mod schedule;
mod task;
mod text_states;

pub use config::PixArtConfig;
pub use noise::{NoisePairs, NoiseSharing, TimestepsAs};
pub use pixart::PixArt;
pub use process::{NoiseProcess, Prediction};
pub use sampler::{SamplerConfig, sample_images};
pub use schedule::{BetaSchedule, NoiseSchedule};
pub use task::{DiffusionBatch, DiffusionSample, TextToImage};
pub use text_states::{TextState, TextStates};
