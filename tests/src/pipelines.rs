//! A tiny text-to-image model in diffusers' layout.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use hyperinf::models::{
    Denoiser, NoiseProcess, PixArt, PixArtConfig, Prediction, load_weights, save_pipeline_index, save_pixart, weights,
};

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
    // An untrained output is zero, and then so are all gradients.
    let mut all = weights(&denoiser).expect("readable");
    for (number, data) in all.values_mut().enumerate().filter(|(_, data)| data.iter::<f32>().all(|v| v == 0.0)) {
        let value = |at: usize| ((at * 37 + number * 11) % 101) as f32 / 200.0 - 0.25;
        *data = TensorData::new((0..data.num_elements()).map(value).collect(), data.shape().to_vec());
    }
    let denoiser = load_weights(denoiser, all).expect("the same names");
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
