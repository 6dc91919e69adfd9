use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Initial values drawn on the host, so that a seed gives the same model on every device.
///
/// A device's generator is shared by everything that runs on it: a model drawn from it would depend on other work.
pub(crate) struct Init<'a> {
    rng: StdRng,
    device: &'a Device,
}

impl<'a> Init<'a> {
    pub(crate) fn new(seed: u64, device: &'a Device) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), device }
    }

    /// A seed for a part of the model.
    pub(crate) fn seed(&mut self) -> u64 {
        self.rng.random()
    }

    /// A matrix `[rows, cols]` with entries uniform in `±bound`.
    pub(crate) fn uniform(&mut self, [rows, cols]: [usize; 2], bound: f32) -> Param<Tensor<2>> {
        let values: Vec<f32> = (0..rows * cols).map(|_| bound * (2.0 * self.rng.random::<f32>() - 1.0)).collect();
        Param::from_data(TensorData::new(values, [rows, cols]), self.device)
    }

    /// A linear layer: weights uniform in `±1/√d_input` (Kaiming-uniform with `a = √5`), bias zero.
    pub(crate) fn linear(&mut self, d_input: usize, d_output: usize) -> Linear {
        let bias = Some(Param::from_tensor(Tensor::zeros([d_output], self.device)));
        Linear { bias, ..self.linear_without_bias(d_input, d_output) }
    }

    /// [`linear`](Self::linear) without a bias.
    pub(crate) fn linear_without_bias(&mut self, d_input: usize, d_output: usize) -> Linear {
        Linear { weight: self.uniform([d_input, d_output], 1.0 / (d_input as f32).sqrt()), bias: None }
    }
}
