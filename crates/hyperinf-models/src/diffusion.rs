//! Diffusion: noise, targets, denoisers, and sampling from them.

mod attention;
mod autoencoder;
mod autoencoder_config;
mod clip_text;
mod config;
mod denoiser;
mod embedding;
mod noise;
mod pixart;
mod pixart_block;
mod process;
mod sampler;
mod schedule;
mod task;
mod text_states;
mod unet;
mod unet_config;
mod unet_parts;

pub use autoencoder::Autoencoder;
pub use autoencoder_config::AutoencoderConfig;
pub use clip_text::{ClipText, ClipTextConfig};
pub use config::PixArtConfig;
pub use denoiser::Denoiser;
pub use noise::{NoisePairs, NoiseSharing, TimestepsAs};
pub use pixart::PixArt;
pub use process::{NoiseProcess, Prediction};
pub use sampler::{SamplerConfig, sample_images};
pub use schedule::{BetaSchedule, NoiseSchedule};
pub use task::{DiffusionBatch, DiffusionSample, TextToImage};
pub use text_states::{TextState, TextStates};
pub use unet::UNet;
pub use unet_config::{UNetConfig, UNetLevel};
