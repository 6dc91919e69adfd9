//! Diffusion: noise, targets, denoisers, and sampling from them.

mod attention;
mod config;
mod denoiser;
mod embedding;
mod image_coder;
mod noise;
mod pipeline;
mod pixart;
mod pixart_block;
mod process;
mod sampler;
mod schedule;
mod task;
mod text_encoder;
mod text_states;
mod unet;
mod unet_config;
mod unet_parts;

pub use config::PixArtConfig;
pub use denoiser::Denoiser;
pub use image_coder::ImageCoder;
pub use noise::{NoisePairs, NoiseSharing, TimestepsAs};
pub use pipeline::Pipeline;
pub use pixart::PixArt;
pub use process::{NoiseProcess, Prediction};
pub use sampler::{SamplerConfig, sample_images};
pub use schedule::{BetaSchedule, NoiseSchedule};
pub use task::{DiffusionBatch, DiffusionSample, PromptDropout, TextToImage};
pub use text_encoder::TextEncoder;
pub use text_states::{TextState, TextStates};
pub use unet::UNet;
pub use unet_config::{UNetConfig, UNetLevel};
