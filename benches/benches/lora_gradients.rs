//! Per-sample gradients of LoRA adapters (rank 8) of two transformers with random weights: an encoder of MiniLM's shape,
//! 16 samples of 64 tokens, and a decoder of SmolLM2-135M's shape, 8 samples of 100 tokens of which 25 are scored; next to
//! the gradients one step of fine-tuning without the optimizer.

use std::time::Duration;

use burn::module::Module;
use burn::tensor::Tensor;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hyperinf::gradients::{Tape, Target, Task, gradients};
use hyperinf_benches::device;
use hyperinf_benches::transformers::{completions, decoder, encoder, sentences, wait};

fn encoder_gradients(c: &mut Criterion) {
    const SAMPLES: usize = 16;
    let (name, device) = device();
    let model = encoder(&device);
    let batch = sentences(&model, SAMPLES, 64);

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
    let batch = completions(&model, SAMPLES, LENGTH, SCORED);

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
    let batch = completions(&trained, SAMPLES, LENGTH, SCORED);
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
