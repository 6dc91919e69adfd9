//! Small networks with every use of a linear layer that the tape must handle, and batches for them.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::activation::{log_softmax, relu, softmax};
use burn::tensor::{DType, Device, Tensor};
use hyperinf::gradients::{Tape, Task};
use hyperinf_tests::compare::tensor;
use hyperinf_tests::oracle::Matrix;

/// Inputs of every network here.
pub const WIDTH: usize = 5;
/// Outputs.
pub const CLASSES: usize = 3;

/// A model whose linear layers go through the tape under their own paths.
pub trait Network: Module {
    /// The network with its numbers.
    fn new(make: &Make) -> Self;
    /// Outputs `[n, CLASSES]` of inputs `[n, t, WIDTH]` with a mask `[n, t]`: 1 is real, 0 padding.
    fn run(&self, x: Tensor<3>, mask: Tensor<2>, tape: &mut Tape) -> Tensor<2>;
}

/// Makes layers of one type on one device; layers named alike have the same numbers everywhere.
pub struct Make {
    pub device: Device,
    pub dtype: DType,
}

impl Make {
    pub fn linear(&self, name: &str, d_input: usize, d_output: usize, bias: bool) -> Linear {
        let seed = name.bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte));
        let weight = tensor(&Matrix::noise(d_input, d_output, seed), &self.device, self.dtype);
        let offset = tensor(&Matrix::noise(1, d_output, seed + 1), &self.device, self.dtype).squeeze_dim(0);
        Linear { weight: Param::from_tensor(weight), bias: bias.then(|| Param::from_tensor(offset)) }
    }
}

/// A perceptron on the first position only: inputs of rank 2.
#[derive(Module, Debug)]
pub struct Perceptron {
    first: Linear,
    second: Linear,
}

impl Network for Perceptron {
    fn new(make: &Make) -> Self {
        Self { first: make.linear("p1", WIDTH, 4, true), second: make.linear("p2", 4, CLASSES, false) }
    }

    fn run(&self, x: Tensor<3>, _mask: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
        let x = x.narrow(1, 0, 1).squeeze_dim(1);
        let hidden = relu(tape.linear("first", &self.first, x));
        tape.linear("second", &self.second, hidden)
    }
}

/// Attention over positions and a masked mean: inputs of rank 3, positions that see each other.
#[derive(Module, Debug)]
pub struct Sequence {
    query: Linear,
    value: Linear,
    head: Linear,
}

impl Network for Sequence {
    fn new(make: &Make) -> Self {
        Self {
            query: make.linear("query", WIDTH, WIDTH, false),
            value: make.linear("value", WIDTH, 4, true),
            head: make.linear("head", 4, CLASSES, true),
        }
    }

    fn run(&self, x: Tensor<3>, mask: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
        let query = tape.linear("query", &self.query, x.clone());
        let hidden = relu(tape.linear("value", &self.value, x.clone()));
        let hidden = softmax(query.matmul(x.swap_dims(1, 2)) + hidden_from(&mask), 2).matmul(hidden);
        tape.linear("head", &self.head, masked_mean(hidden, mask))
    }
}

/// A frozen layer with a trained low-rank addition, between two layers that are not recorded.
#[derive(Module, Debug)]
pub struct LowRank {
    before: Linear,
    base: Linear,
    lora_a: Linear,
    lora_b: Linear,
    head: Linear,
}

impl Network for LowRank {
    fn new(make: &Make) -> Self {
        Self {
            before: make.linear("before", WIDTH, WIDTH, true),
            base: make.linear("base", WIDTH, 4, true),
            lora_a: make.linear("lora_a", WIDTH, 2, false),
            lora_b: make.linear("lora_b", 2, 4, false),
            head: make.linear("head", 4, CLASSES, true),
        }
    }

    fn run(&self, x: Tensor<3>, mask: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
        let x = relu(self.before.forward(x));
        let low = tape.linear("lora_a", &self.lora_a, x.clone());
        let update = tape.linear("lora_b", &self.lora_b, low).mul_scalar(2.0);
        let hidden = relu(self.base.forward(x) + update);
        self.head.forward(masked_mean(hidden, mask))
    }
}

/// One layer used at two depths, and twice on inputs of different rank.
#[derive(Module, Debug)]
pub struct Shared {
    layer: Linear,
    head: Linear,
}

impl Network for Shared {
    fn new(make: &Make) -> Self {
        Self { layer: make.linear("layer", WIDTH, WIDTH, true), head: make.linear("head", WIDTH, CLASSES, true) }
    }

    fn run(&self, x: Tensor<3>, mask: Tensor<2>, tape: &mut Tape) -> Tensor<2> {
        let hidden = relu(tape.linear("layer", &self.layer, x));
        let mean = masked_mean(hidden, mask);
        let again = tape.linear("layer", &self.layer, mean);
        tape.linear("head", &self.head, again)
    }
}

/// Added to attention logits: a large negative number where the key is padding, `[n, 1, t]`.
fn hidden_from(mask: &Tensor<2>) -> Tensor<3> {
    mask.clone().sub_scalar(1.0).mul_scalar(1e9).unsqueeze_dim(1)
}

fn masked_mean(hidden: Tensor<3>, mask: Tensor<2>) -> Tensor<2> {
    let lengths = mask.clone().sum_dim(1);
    (hidden * mask.unsqueeze_dim(2)).sum_dim(1).squeeze_dim::<2>(1) / lengths
}

/// `n` samples of different lengths, padded to `padding` positions with values that must not matter.
#[derive(Clone)]
pub struct Samples {
    lengths: Vec<usize>,
    padding: usize,
    order: Vec<usize>,
}

/// A batch on a device.
pub struct Batch {
    x: Tensor<3>,
    mask: Tensor<2>,
    labels: Tensor<2>,
}

impl Samples {
    /// Samples of these lengths, padded to one.
    pub fn new(lengths: &[usize], padding: usize) -> Self {
        Self { lengths: lengths.to_vec(), padding, order: (0..lengths.len()).collect() }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.order.len()
    }

    /// One sample without its padding.
    pub fn alone(&self, place: usize) -> Self {
        self.select(&[place], self.lengths[self.order[place]])
    }

    /// The samples at these places; each keeps its numbers.
    pub fn select(&self, places: &[usize], padding: usize) -> Self {
        Self { padding, order: places.iter().map(|&p| self.order[p]).collect(), lengths: self.lengths.clone() }
    }

    /// The tensors.
    pub fn batch(&self, device: &Device, dtype: DType) -> Batch {
        let (n, t) = (self.order.len(), self.padding);
        let length = |i: usize| self.lengths[self.order[i]];
        let real: Vec<Matrix> =
            self.order.iter().map(|&s| Matrix::noise(self.lengths[s], WIDTH, 100 + s as u64)).collect();
        let x = Matrix::from_fn(n, t * WIDTH, |i, k| {
            let (position, entry) = (k / WIDTH, k % WIDTH);
            if position < length(i) { real[i].at(position, entry) } else { 3.0 + (i + k) as f64 }
        });
        let mask = Matrix::from_fn(n, t, |i, position| f64::from(u8::from(position < length(i))));
        let labels = Matrix::from_fn(n, CLASSES, |i, k| f64::from(u8::from(self.order[i] % CLASSES == k)));
        Batch {
            x: tensor(&x, device, dtype).reshape([n, t, WIDTH]),
            mask: tensor(&mask, device, dtype),
            labels: tensor(&labels, device, dtype),
        }
    }
}

/// A network with cross-entropy.
pub struct Classify<N>(pub N);

impl<N: Network> Task for Classify<N> {
    type Batch = Batch;

    fn forward(&self, batch: &Batch, tape: &mut Tape) -> Tensor<2> {
        self.0.run(batch.x.clone(), batch.mask.clone(), tape)
    }

    fn loss(&self, outputs: Tensor<2>, batch: &Batch) -> Tensor<1> {
        (log_softmax(outputs, 1) * batch.labels.clone()).sum_dim(1).squeeze_dim::<1>(1).neg()
    }
}
