//! Per-sample gradients of LoRA adapters (rank 8) of two transformers with random weights:
//!
//! * an encoder of MiniLM's shape (6 layers × 384, 12 heads, inner width 1536, normalisation after each part, exact
//!   GELU), adapters on query and value, 16 samples of 64 tokens;
//! * a decoder of SmolLM2-135M's shape (30 layers × 576, 9 query and 3 key heads of 64, inner width 1536, 49,152
//!   tokens), adapters on `q_proj` and `v_proj`, 8 samples of 100 tokens of which 25 are scored; next to the gradients
//!   one step of fine-tuning without the optimizer.

use std::time::Duration;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hyperinf::gradients::{Gradients, Tape, Target, Task, gradients};
use hyperinf::models::{
    AttentionBias, CausalLm, DecoderConfig, Encoder, EncoderClassifier, EncoderConfig, HeadKind, LmHead, LmSample,
    LoraConfig, RecordedLayers, RotaryConfig, Sample, SampleModel, adapt,
};
use hyperinf_benches::device;

/// A sequence of `length` tokens below `vocabulary`.
fn tokens(seed: u64, length: usize, vocabulary: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocabulary) as u32
        })
        .collect()
}

fn encoder(device: &Device) -> EncoderClassifier {
    let config = EncoderConfig { width: 384, layers: 6, heads: 12, feed_forward: 1536, ..EncoderConfig::default() };
    let encoder = Encoder::new(config, 1, device).expect("a valid configuration");
    let model = EncoderClassifier::new(encoder, HeadKind::Mean, 2, RecordedLayers::Adapters, 2).expect("two classes");
    adapt(model, &["query", "value"], &LoraConfig::default(), 3).expect("layers of these names")
}

fn decoder(device: &Device) -> CausalLm {
    let config = DecoderConfig {
        vocabulary: 49_152,
        max_tokens: 2048,
        width: 576,
        layers: 30,
        heads: 9,
        key_value_heads: 3,
        head_size: 64,
        feed_forward: 1536,
        norm_epsilon: 1e-5,
        rotary: RotaryConfig { base: 1e5, ..RotaryConfig::default() },
        attention_bias: AttentionBias::None,
        feed_forward_bias: false,
        sliding_window: None,
    };
    let model = CausalLm::new(config, LmHead::Tied, 1, device).expect("a valid configuration");
    adapt(model, &["q_proj", "v_proj"], &LoraConfig::default(), 3).expect("layers of these names")
}

fn collate<M: SampleModel>(model: &M, samples: &[M::Sample]) -> M::Batch {
    model.collate(&samples.iter().collect::<Vec<_>>()).expect("samples that fit the model")
}

fn wait(gradients: Gradients) -> f64 {
    let sums = gradients.blocks.into_iter().map(|block| block.slice([0..1, 0..1, 0..1]).into_scalar::<f32>());
    sums.map(f64::from).sum()
}

fn encoder_gradients(c: &mut Criterion) {
    const SAMPLES: usize = 16;
    let (name, device) = device();
    let model = encoder(&device);
    let samples: Vec<Sample> = (0..SAMPLES)
        .map(|i| Sample { tokens: tokens(i as u64, 64, 30_522), segments: Vec::new(), label: i % 2 })
        .collect();
    let batch = collate(&model, &samples);

    let mut group = c.benchmark_group(format!("lora_gradients/{name}/encoder 6x384, 16 x 64 tokens"));
    group.throughput(Throughput::Elements(SAMPLES as u64)).sample_size(20).measurement_time(Duration::from_secs(8));
    group.bench_function("forward", |b| {
        b.iter(|| model.loss(model.forward(&batch, &mut Tape::off()), &batch).into_data());
    });
    group.bench_function("per-sample gradients", |b| {
        b.iter(|| wait(gradients(&model, &batch, Target::Loss).expect("a good model")));
    });
    group.finish();
}

fn decoder_gradients(c: &mut Criterion) {
    const SAMPLES: usize = 8;
    const LENGTH: usize = 100;
    const SCORED: usize = 25;
    let (name, device) = device();
    let model = decoder(&device);
    let samples: Vec<LmSample> = (0..SAMPLES)
        .map(|i| LmSample {
            tokens: tokens(i as u64, LENGTH, 49_152),
            scored: (0..LENGTH).map(|place| place >= LENGTH - SCORED).collect(),
        })
        .collect();
    let batch = collate(&model, &samples);

    let mut group = c.benchmark_group(format!("lora_gradients/{name}/decoder 30x576, 8 x 100 tokens"));
    group.throughput(Throughput::Elements((SAMPLES * LENGTH) as u64)).sample_size(10);
    group.measurement_time(Duration::from_secs(10));
    group.bench_function("forward", |b| {
        b.iter(|| model.loss(model.forward(&batch, &mut Tape::off()), &batch).into_data());
    });
    group.bench_function("per-sample gradients", |b| {
        b.iter(|| wait(gradients(&model, &batch, Target::Loss).expect("a good model")));
    });
    let trained = model.train();
    let batch = collate(&trained, &samples);
    group.bench_function("fine-tuning, forward and backward", |b| {
        b.iter(|| {
            let losses: Tensor<1> = trained.loss(trained.forward(&batch, &mut Tape::off()), &batch);
            let loss = losses.mean();
            let _gradients = loss.backward();
            loss.into_data()
        });
    });
    group.finish();
}

criterion_group!(benches, encoder_gradients, decoder_gradients);
criterion_main!(benches);
