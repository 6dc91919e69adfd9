//! The fixture `digits_mlp` as a model and its data.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{DType, Device, Tensor};
use hyperinf::gradients::{Family, Gradients, Likelihood, Tape, Target, Task, gradients};

use crate::compare::tensor;
use crate::fixtures::{Arrays, load};
use crate::oracle::Matrix;

/// The model's weights, its checkpoints and its data.
pub fn arrays() -> Arrays {
    load("digits_mlp/model_and_data.safetensors")
}

/// The expected values of this name.
pub fn expected(name: &str) -> Vec<f64> {
    load("digits_mlp/expected.safetensors")[name].values.clone()
}

/// Linear(64, 32), ReLU, Linear(32, 10) with cross-entropy.
#[derive(Debug)]
pub struct Digits {
    first: Linear,
    second: Linear,
}

impl Digits {
    /// From PyTorch's `[out, in]` weights; `prefix` picks a checkpoint.
    pub fn new(arrays: &Arrays, prefix: &str, device: &Device, dtype: DType) -> Self {
        let layer = |index: usize| {
            let array = |what: &str| tensor(&arrays[&format!("{prefix}{index}.{what}")].matrix(), device, dtype);
            Linear {
                weight: Param::from_tensor(array("weight").transpose()),
                bias: Some(Param::from_tensor(array("bias").squeeze_dim(0))),
            }
        };
        Self { first: layer(0), second: layer(2) }
    }
}

/// Images `[n, 64]` and labels as rows of the identity, `[n, 10]`.
pub type Images = (Tensor<2>, Tensor<2>);

impl Task for Digits {
    type Batch = Images;

    fn forward(&self, (x, _): &Images, tape: &mut Tape) -> Tensor<2> {
        let hidden = relu(tape.linear("0", &self.first, x.clone()));
        tape.linear("2", &self.second, hidden)
    }

    fn loss(&self, outputs: Tensor<2>, (_, labels): &Images) -> Tensor<1> {
        (log_softmax(outputs, 1) * labels.clone()).sum_dim(1).squeeze_dim::<1>(1).neg()
    }

    fn likelihood(&self, _: &Images) -> Option<Likelihood> {
        Some(Likelihood::new(Family::Softmax))
    }
}

/// Batches of 128 images, so that the last is smaller.
pub fn images(arrays: &Arrays, set: &str, device: &Device, dtype: DType) -> Vec<Images> {
    let x = tensor(&arrays[&format!("x_{set}")].matrix(), device, dtype);
    let labels = &arrays[&format!("y_{set}")].values;
    let one_hot = Matrix::from_fn(labels.len(), 10, |i, k| f64::from(u8::from(labels[i] == k as f64)));
    x.split(128, 0).into_iter().zip(tensor(&one_hot, device, dtype).split(128, 0)).collect()
}

/// Per-sample gradients of the set `train` or `val`, one block per layer, `[n, in + 1, out]`.
pub fn per_sample_gradients(set: &str, device: &Device, dtype: DType) -> Gradients {
    let arrays = arrays();
    let task = Digits::new(&arrays, "", device, dtype);
    let batches = images(&arrays, set, device, dtype);
    let parts = batches.iter().map(|b| gradients(&task, b, Target::Loss).expect("the model is well-formed"));
    Gradients::concat(parts.collect()).expect("the layout is one")
}
