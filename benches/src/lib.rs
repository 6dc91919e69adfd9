//! Shared by the benchmarks: the device, gradients and models.
//!
//! The device is `flex` unless the environment variable `HYPERINF_BENCH_DEVICE` names another. Every timed region
//! ends with a read-back of its result, which waits for the device.

pub mod matrices;
pub mod transformers;

use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Distribution, Int, Tensor};
use hyperinf::gradients::{Block, Gradients, Tape, Task};

/// The program's allocator, so that what is measured is what its users get.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The device to measure on.
///
/// # Panics
///
/// If the device is not available: there is nothing to measure.
pub fn device() -> (String, Device) {
    let name = std::env::var("HYPERINF_BENCH_DEVICE").unwrap_or_else(|_| "flex".into());
    let device = hyperinf::device(&name).unwrap_or_else(|error| panic!("{error}"));
    (name, device)
}

/// Random gradients of `samples` samples for `blocks` blocks of `rows × cols`, whose columns decay as `1/√j`: LoRA
/// gradients are far from isotropic, and an isotropic curvature would flatter every iteration.
pub fn random_gradients(blocks: usize, samples: usize, rows: usize, cols: usize, device: &Device) -> Gradients {
    let decay: Vec<f32> = (0..cols).map(|j| 1.0 / (1.0 + j as f32).sqrt()).collect();
    let decay = Tensor::<1>::from_floats(decay.as_slice(), device).reshape([1, 1, cols]);
    let block = |_| Tensor::<3>::random([samples, rows, cols], Distribution::Normal(0.0, 1.0), device) * decay.clone();
    Gradients {
        layout: (0..blocks).map(|l| Block::new(format!("layers.{l}"), rows, cols)).collect(),
        blocks: (0..blocks).map(block).collect(),
    }
}

/// A perceptron with ReLU between its layers and cross-entropy over its outputs.
pub struct Perceptron {
    layers: Vec<Linear>,
}

impl Perceptron {
    /// Layers of these widths, inputs first, randomly initialised.
    pub fn new(widths: &[usize], device: &Device) -> Self {
        Self { layers: widths.windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(device)).collect() }
    }
}

/// Inputs `[n, d]` and class numbers `[n]`.
pub type Labelled = (Tensor<2>, Tensor<1, Int>);

impl Task for Perceptron {
    type Batch = Labelled;

    fn forward(&self, (x, _): &Labelled, tape: &mut Tape) -> Tensor<2> {
        let last = self.layers.len() - 1;
        self.layers.iter().enumerate().fold(x.clone(), |x, (i, layer)| {
            let x = tape.linear(&format!("layers.{i}"), layer, x);
            if i < last { relu(x) } else { x }
        })
    }

    fn loss(&self, outputs: Tensor<2>, (_, labels): &Labelled) -> Tensor<1> {
        let [n] = labels.dims();
        -log_softmax(outputs, 1).gather(1, labels.clone().reshape([n, 1])).squeeze_dim(1)
    }
}
