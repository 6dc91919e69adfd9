//! A tiny text-to-image model in diffusers' layout.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use hyperinf::models::{Denoiser, NoiseProcess, PixArt, PixArtConfig, Prediction, save_pipeline_index, save_pixart};

use crate::fixtures;

/// The side of its pictures.
pub const SIDE: usize = 8;

/// Writes a PixArt transformer with random weights, and a BERT for captions.
pub fn write(folder: &Path, prediction: Prediction, device: &Device) {
    let config = PixArtConfig {
        channels: 3,
        out_channels: 3,
        side: SIDE,
        patch: 2,
        layers: 2,
        heads: 2,
        head_size: 8,
        text_width: 16,
        ..PixArtConfig::default()
    };
    let denoiser = PixArt::new(config, 3, device).expect("a valid configuration");
    save_pixart(&denoiser, &folder.join("transformer")).expect("a folder that can be written");
    let process = NoiseProcess { prediction, ..NoiseProcess::default() };
    save_pipeline_index(folder, &Denoiser::PixArt(denoiser), &process, "BertModel").expect("it can be written");
    let bert = fixtures::path("transformers/bert");
    let parts =
        [("text_encoder", "config.json"), ("text_encoder", "model.safetensors"), ("tokenizer", "tokenizer.json")];
    for (part, file) in parts.into_iter().chain([("tokenizer", "tokenizer_config.json")]) {
        fs::create_dir_all(folder.join(part)).expect("a folder that can be written");
        fs::copy(bert.join(file), folder.join(part).join(file)).expect("a copy");
    }
}
