//! Per-sample gradients of a perceptron 784-512-256-10, batches of 128; the loop, one backward pass per sample, next to
//! it on the first 16 of them. Scores of 4,096 samples for one query, next to one training step's forward and backward
//! pass over as many; `benches/scores.py` is the same in PyTorch. Before a method is timed the difference of its scores
//! from those of formed gradients is printed.

use std::time::Duration;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Distribution, Int, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hyperinf::gradients::{Gradients, Target, capture, gradients, gradients_looped};
use hyperinf::scoring::{
    Batch, CurvatureFrom, Gfim, Method, Options, QueryMode, ScoreError, Source, TaskSource, attribute,
};
use hyperinf::solvers::Exact;
use hyperinf_benches::{Perceptron, device};

const BATCH: usize = 128;
const LOOPED: usize = 16;
const WIDTHS: [usize; 4] = [784, 512, 256, 10];

/// The same perceptron as a module, for the loop.
#[derive(Module, Debug)]
struct PerSampleLoop {
    layers: Vec<Linear>,
}

impl PerSampleLoop {
    fn loss(&self, x: Tensor<2>, label: Tensor<2, Int>) -> Tensor<1> {
        let last = self.layers.len() - 1;
        let outputs = self.layers.iter().enumerate().fold(x, |x, (i, layer)| {
            let x = layer.forward(x);
            if i < last { relu(x) } else { x }
        });
        -log_softmax(outputs, 1).gather(1, label).squeeze_dim(1)
    }
}

fn wait(gradients: Gradients) -> f64 {
    let sums = gradients.blocks.into_iter().map(|block| block.slice([0..1, 0..1, 0..1]).into_scalar::<f32>());
    sums.map(f64::from).sum()
}

fn per_sample(c: &mut Criterion) {
    let (name, device) = device();
    device.seed(0);
    let x = Tensor::<2>::random([BATCH, WIDTHS[0]], Distribution::Normal(0.0, 1.0), &device);
    let labels: Vec<i32> = (0..BATCH as i32).map(|i| i % 10).collect();
    let labels = Tensor::<1, Int>::from_ints(labels.as_slice(), &device);
    let task = Perceptron::new(&WIDTHS, &device);
    let batch = (x.clone(), labels.clone());

    let mut group = c.benchmark_group(format!("gradients/{name}/784-512-256-10"));
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(30);
    group.bench_function("tape, batch of 128", |b| {
        b.iter(|| wait(gradients(&task, &batch, Target::Loss).expect("a good model")));
    });

    let trained = device.autodiff();
    let looped =
        PerSampleLoop { layers: WIDTHS.windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(&trained)).collect() };
    group.throughput(Throughput::Elements(LOOPED as u64)).sample_size(10);
    group.bench_function("loop, 16 samples", |b| {
        b.iter(|| {
            let loss = |module: &PerSampleLoop, i: usize| {
                let x = x.clone().slice([i..i + 1]).autodiff();
                module.loss(x, labels.clone().slice([i..i + 1]).reshape([1, 1]))
            };
            let found = gradients_looped(&looped, LOOPED, loss).expect("a good model");
            found.blocks.into_iter().map(|block| block.slice([0..1, 0..1, 0..1]).into_scalar::<f32>()).sum::<f32>()
        });
    });
    group.finish();
}

/// The gradients of a source, formed batch by batch.
struct Formed<'a>(&'a dyn Source);

impl Source for Formed<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.0.pass(&mut |batch| visit(batch.into_gradients().into()))
    }
}

/// Scores of all samples for a query, with every pass over the model that the method takes.
fn scores(c: &mut Criterion) {
    const BATCHES: usize = 32;
    let (name, device) = device();
    device.seed(0);
    let labels: Vec<i32> = (0..BATCH as i32).map(|i| i % 10).collect();
    let labels = Tensor::<1, Int>::from_ints(labels.as_slice(), &device);
    let batch = |_| (Tensor::<2>::random([BATCH, WIDTHS[0]], Distribution::Normal(0.0, 1.0), &device), labels.clone());
    let batches: Vec<_> = (0..BATCHES).map(batch).collect();
    let task = Perceptron::new(&WIDTHS, &device);
    let trained = PerSampleLoop {
        layers: WIDTHS.windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(&device.clone().autodiff())).collect(),
    };

    let mut group = c.benchmark_group(format!("scores/{name}/784-512-256-10, 4096 samples"));
    group.throughput(Throughput::Elements((BATCHES * BATCH) as u64)).sample_size(10);
    group.measurement_time(Duration::from_secs(8));
    group.bench_function("forward and backward", |b| {
        b.iter(|| {
            for (x, labels) in &batches {
                let losses: Tensor<1> = trained.loss(x.clone().autodiff(), labels.clone().reshape([BATCH, 1]));
                let gradients = trained.layers[0].weight.val().grad(&losses.sum().backward()).expect("a gradient");
                gradients.slice([0..1, 0..1]).into_scalar::<f32>();
            }
        });
    });
    group.bench_function("captures", |b| {
        b.iter(|| {
            for batch in &batches {
                let found = capture(&task, batch, Target::Loss).expect("a good model");
                let delta = found.blocks.into_iter().next().expect("a layer").delta;
                delta.slice([0..1, 0..1, 0..1]).into_scalar::<f32>();
            }
        });
    });
    let query = vec![batches[0].clone()];
    // Half a gigabyte of gradients.
    let few = &batches[..2];
    let named = |name| (name, Options::named(name).expect("a method"));
    let by_cholesky = Options { method: Method::inverse(Gfim::default().storage(), Exact), ..Options::default() };
    let methods = ["identity", "cosine", "diagonal", "datainf", "hyperinf", "ekfac"].map(named).into_iter();
    for (method, options) in methods.chain([("hyperinf by Cholesky", by_cholesky)]) {
        let options = Options { query: QueryMode::Mean, ..options };
        let needs_captures = method == "ekfac";
        let scores = |train: &dyn Source| {
            let found = attribute(train, &TaskSource::query(&task, &query), CurvatureFrom::Training, &options);
            found.expect("good data").scores.rows.concat()
        };
        if !needs_captures {
            let train = TaskSource::train(&task, few);
            let (found, formed) = (scores(&train), scores(&Formed(&train)));
            let largest = formed.iter().fold(0.0_f64, |most, score| most.max(score.abs()));
            let off = found.iter().zip(&formed).fold(0.0_f64, |most, (a, b)| most.max((a - b).abs()));
            eprintln!("{method}: {:.1e} of the largest score from formed gradients", off / largest);
        }
        group.bench_function(method, |b| {
            b.iter(|| {
                let (train, query) = (TaskSource::train(&task, &batches), TaskSource::query(&task, &query));
                attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data").scores.rows[0][0]
            });
        });
    }
    group.finish();
}

criterion_group!(benches, per_sample, scores);
criterion_main!(benches);
