//! The models of pictures with random weights: vision encoders, once per picture, and per-sample gradients of LoRA
//! adapters (rank 8 on `to_q`, `to_k`, `to_v`, `to_out.0`) of PixArt transformers and of a U-Net, two samples at a few
//! noisy versions each. Names have the work of one run in GFLOP (products alone, counted by PyTorch), so that the rate
//! can be read off; `benches/images.py` is the same in PyTorch.

use std::time::Duration;

use burn::module::Module;
use burn::tensor::Device;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hyperinf::gradients::{Tape, Target, Task, gradients};
use hyperinf::models::{
    Activation, AttentionBias, ConnectorConfig, DecoderConfig, Denoiser, DiffusionSample, FeatureStage, LmHead,
    LoraConfig, NoisePairs, NoiseProcess, NoiseSharing, PixArt, PixArtConfig, RotaryConfig, SampleModel, TextState,
    TextToImage, UNet, UNetConfig, UNetLevel, VisionConfig, VisionForm, VisionLanguage, VisionLanguageConfig, adapt,
};
use hyperinf_benches::device;
use hyperinf_benches::transformers::wait;

/// A vision encoder with the smallest language model behind it.
fn encoder(size: usize, patch: usize, width: usize, heads: usize, device: &Device) -> VisionLanguage {
    let vision = VisionConfig {
        form: VisionForm::Siglip,
        image_size: size,
        patch_size: patch,
        channels: 3,
        width,
        layers: 12,
        used_layers: 12,
        heads,
        feed_forward: 4 * width,
        activation: Activation::GeluTanh,
        norm_epsilon: 1e-6,
    };
    let text = DecoderConfig {
        vocabulary: 32,
        max_tokens: 2048,
        width: 16,
        layers: 1,
        heads: 1,
        key_value_heads: 1,
        head_size: 16,
        feed_forward: 16,
        norm_epsilon: 1e-5,
        rotary: RotaryConfig::default(),
        attention_bias: AttentionBias::None,
        feed_forward_bias: false,
        sliding_window: None,
    };
    let connector = ConnectorConfig::PixelShuffle { scale: 1 };
    let config = VisionLanguageConfig { vision, connector, text, head: LmHead::Separate, image_token: 31 };
    VisionLanguage::new(config, 1, device).expect("a valid configuration")
}

fn encoders(c: &mut Criterion) {
    let (name, device) = device();
    let mut group = c.benchmark_group(format!("images/{name}/encoder"));
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(5));
    let shapes = [
        ("ViT-S, 112 pixels, 64 patches", 112, 14, 384, 6),
        ("ViT-B, 224 pixels, 196 patches", 224, 16, 768, 12),
        ("ViT-B, 512 pixels, 1024 patches", 512, 16, 768, 12),
    ];
    for (shape, size, patch, width, heads) in shapes {
        let model = encoder(size, patch, width, heads, &device);
        let pixels: Vec<f32> = (0..3 * size * size).map(|at| (at as f32 * 0.37).sin()).collect();
        let places = (size / patch).pow(2) as f64;
        let products = 12.0 * places * (24.0 * (width as f64).powi(2) + 4.0 * places * width as f64);
        let id = BenchmarkId::new(shape, format!("{:.1} GFLOP", 1e-9 * products));
        group.bench_function(id, |b| {
            b.iter(|| model.features(&pixels, FeatureStage::Encoder).expect("a whole tile"));
        });
    }
    group.finish();
}

/// A transformer of PixArt's layout.
fn pixart(layers: usize, heads: usize, head_size: usize, side: usize, patch: usize, device: &Device) -> Denoiser {
    let config = PixArtConfig { layers, heads, head_size, side, patch, text_width: 384, ..PixArtConfig::default() };
    Denoiser::PixArt(PixArt::new(config, 1, device).expect("a valid configuration"))
}

/// The two finest levels of Stable Diffusion 1.5 on latents of half its side.
fn unet(device: &Device) -> Denoiser {
    let level = |channels| UNetLevel { channels, heads: 8, depth: 1, attends_down: true, attends_up: true };
    let config = UNetConfig {
        channels: 4,
        out_channels: 4,
        side: 32,
        levels: vec![level(320), level(640)],
        layers: 2,
        text_width: 768,
        groups: 32,
        norm_epsilon: 1e-5,
        linear_projection: false,
    };
    Denoiser::UNet(UNet::new(config, 1, device).expect("a valid configuration"))
}

fn denoisers(c: &mut Criterion) {
    const SAMPLES: usize = 2;
    let (name, device) = device();
    let mut group = c.benchmark_group(format!("images/{name}/denoiser"));
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    // Forward passes of one version, in GFLOP.
    let shapes = [
        ("PixArt 6 x 128, 64 patches", 5, pixart(6, 4, 32, 32, 4, &device)),
        ("PixArt 4 x 1152, 256 patches", 1, pixart(4, 16, 72, 32, 2, &device)),
        ("U-Net 320 and 640, 32 x 32", 1, unet(&device)),
    ];
    for (shape, versions, denoiser) in shapes {
        let timesteps = (0..versions).map(|k| (100 + 150 * k) as f64).collect();
        let pairs = NoisePairs { timesteps, sharing: NoiseSharing::Shared, seed: 0 };
        let (shape_of, width) = (denoiser.shape(), denoiser.text_width());
        let model = TextToImage { pairs, ..TextToImage::new(denoiser, NoiseProcess::default()) };
        let targets = ["to_q", "to_k", "to_v", "to_out.0"];
        let model = adapt(model, &targets, &LoraConfig::default(), 3).expect("layers of these names");
        let values = |count: usize, seed: usize| (0..count).map(|at| ((at * 7 + seed) as f32).sin()).collect();
        let sample = |seed: usize| DiffusionSample {
            shape: shape_of,
            image: values(shape_of.iter().product(), seed),
            text: TextState { width, values: values(16 * width, seed + 100) },
        };
        let samples: Vec<DiffusionSample> = (0..SAMPLES).map(sample).collect();
        let batch = model.collate(&samples.iter().collect::<Vec<_>>()).expect("samples that fit the model");
        group.throughput(Throughput::Elements((SAMPLES * versions) as u64));
        group.bench_function(BenchmarkId::new(shape, "forward"), |b| {
            b.iter(|| model.loss(model.forward(&batch, &mut Tape::off()), &batch).into_data());
        });
        group.bench_function(BenchmarkId::new(shape, "per-sample gradients"), |b| {
            b.iter(|| wait(gradients(&model, &batch, Target::Loss).expect("a good model")));
        });
        println!("{shape}: {} parameters", model.num_params());
    }
    group.finish();
}

criterion_group!(benches, encoders, denoisers);
criterion_main!(benches);
