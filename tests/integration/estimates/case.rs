//! A network whose samples have several output rows, and its Gauss-Newton matrix from explicit Jacobians, in f64.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use hyperinf::gradients::{Family, Likelihood, Tape, Task, gradients_looped};
use hyperinf_tests::compare::{matrix, tensor, values};
use hyperinf_tests::oracle::Matrix;

use crate::networks::Make;

const POSITIONS: usize = 3;
const INPUTS: usize = 3;
const OUTPUTS: usize = 3;

/// Two layers with a mean over earlier positions between them, so that rows of a sample share more than weights.
#[derive(Module, Debug)]
pub struct Net {
    first: Linear,
    head: Linear,
}

impl Net {
    /// With its numbers.
    pub fn new(device: &Device, dtype: DType) -> Self {
        let make = Make { device: device.clone(), dtype };
        Self { first: make.linear("first", INPUTS, 3, true), head: make.linear("head", 3, OUTPUTS, true) }
    }

    /// With one parameter moved, by its place in the tape's blocks.
    fn moved(&self, entry: usize, by: f64) -> Self {
        let mut net = self.clone();
        let (layer, entry) =
            if entry < 3 * (INPUTS + 1) { (&mut net.first, entry) } else { (&mut net.head, entry - 3 * (INPUTS + 1)) };
        let plus = |place: usize, mut old: Vec<f64>| {
            old[place] += by;
            old
        };
        let like = layer.weight.val();
        let (device, dtype, dims) = (like.device(), like.dtype(), like.dims());
        let size = dims[0] * dims[1];
        if entry < size {
            let data = TensorData::new(plus(entry, values(like)), dims);
            layer.weight = Param::from_tensor(Tensor::from_data(data, (&device, dtype)));
        } else if let Some(bias) = &mut layer.bias {
            let data = TensorData::new(plus(entry - size, values(bias.val())), [dims[1]]);
            *bias = Param::from_tensor(Tensor::from_data(data, (&device, dtype)));
        }
        net
    }

    pub fn outputs(&self, batch: &Batch, tape: &mut Tape) -> Tensor<2> {
        let hidden = tape.linear("first", &self.first, batch.x.clone()).tanh();
        let [n, t, d] = hidden.dims();
        let mean = Matrix::from_fn(t, t, |i, j| if j <= i { 1.0 / (i + 1) as f64 } else { 0.0 });
        let mean = tensor(&mean, &batch.x.device(), batch.x.dtype()).reshape([1, t, t]).expand([n, t, t]);
        let outputs = tape.linear("head", &self.head, mean.matmul(hidden));
        outputs.reshape([n * t, d]).select(0, batch.places.clone())
    }
}

/// Samples with an output row at some of their positions.
#[derive(Clone)]
pub struct Data {
    pub family: Family,
    /// The positions of each sample.
    rows: &'static [&'static [usize]],
    /// Whether rows have weights and name their samples.
    pub named: bool,
}

const SEVERAL: &[&[usize]] = &[&[0, 2], &[1], &[0, 1, 2], &[2], &[1, 2]];
const SINGLE: &[&[usize]] = &[&[0], &[2], &[1], &[2], &[0]];

/// Some of the samples.
pub struct Batch {
    data: Data,
    x: Tensor<3>,
    places: Tensor<1, Int>,
    samples: Vec<usize>,
    weights: Vec<f64>,
    targets: Tensor<2>,
}

/// The weight of a row of a sample.
fn weight(data: &Data, sample: usize, position: usize) -> f64 {
    if data.named { 0.3 + (sample + 2 * position) as f64 / 5.0 } else { 1.0 }
}

impl Data {
    pub fn new(family: Family, named: bool) -> Self {
        Self { family, rows: if named { SEVERAL } else { SINGLE }, named }
    }

    pub fn all() -> [Self; 4] {
        let of = |family| [Self::new(family, false), Self::new(family, true)];
        let [[a, b], [c, d]] = [of(Family::Softmax), of(Family::Gaussian)];
        [a, b, c, d]
    }

    pub fn batch(&self, chosen: &[usize], device: &Device, dtype: DType) -> Batch {
        let each: Vec<(usize, usize, usize)> = chosen
            .iter()
            .enumerate()
            .flat_map(|(place, &s)| self.rows[s].iter().map(move |&position| (place, s, position)))
            .collect();
        let x = Matrix::from_fn(chosen.len(), POSITIONS * INPUTS, |i, k| {
            2.0 * Matrix::noise(1, POSITIONS * INPUTS, 40 + chosen[i] as u64).values[k]
        });
        let places: Vec<i64> = each.iter().map(|(place, _, position)| (place * POSITIONS + position) as i64).collect();
        let targets = Matrix::from_fn(each.len(), OUTPUTS, |r, k| match self.family {
            Family::Softmax => f64::from(u8::from((each[r].1 + each[r].2) % OUTPUTS == k)),
            Family::Gaussian => ((each[r].1 + 2 * k) % 5) as f64 / 2.0 - 1.0,
        });
        Batch {
            data: self.clone(),
            x: tensor(&x, device, dtype).reshape([chosen.len(), POSITIONS, INPUTS]),
            places: Tensor::from_data(TensorData::new(places, [each.len()]), device),
            samples: each.iter().map(|(place, _, _)| *place).collect(),
            weights: each.iter().map(|(_, s, position)| weight(self, *s, *position)).collect(),
            targets: tensor(&targets, device, dtype),
        }
    }
}

/// The network with the losses of its data.
pub struct NetTask(pub Net);

impl Task for NetTask {
    type Batch = Batch;

    fn forward(&self, batch: &Batch, tape: &mut Tape) -> Tensor<2> {
        self.0.outputs(batch, tape)
    }

    fn loss(&self, outputs: Tensor<2>, batch: &Batch) -> Tensor<1> {
        let each = match batch.data.family {
            Family::Softmax => (log_softmax(outputs, 1) * batch.targets.clone()).neg(),
            Family::Gaussian => (outputs - batch.targets.clone()).square().div_scalar(2.0),
        };
        let [n, ..] = batch.x.dims();
        let share = |i: usize, r: usize| if batch.samples[r] == i { batch.weights[r] } else { 0.0 };
        let shares = Matrix::from_fn(n, batch.samples.len(), share);
        tensor(&shares, &batch.x.device(), batch.x.dtype()).matmul(each.sum_dim(1)).squeeze_dim(1)
    }

    fn likelihood(&self, batch: &Batch) -> Option<Likelihood> {
        let weights = Matrix { rows: 1, cols: batch.weights.len(), values: batch.weights.clone() };
        let weights = tensor(&weights, &batch.x.device(), batch.x.dtype()).squeeze_dim(0);
        let plain = Likelihood::new(batch.data.family);
        let named = Likelihood { weights: Some(weights), samples: Some(batch.samples.clone()), ..plain.clone() };
        Some(if batch.data.named { named } else { plain })
    }
}

/// `(1/n) Σ_rows w JᵀHJ`, `[D, D]`, in the order of the tape's blocks.
pub fn gauss_newton(data: &Data, device: &Device, dtype: DType) -> Matrix {
    let device = device.clone().autodiff();
    let net = Net::new(&device, dtype);
    let batch = data.batch(&[0, 1, 2, 3, 4], &device, dtype);
    let rows = batch.samples.len();
    let one = |net: &Net, i: usize| {
        let outputs = net.outputs(&batch, &mut Tape::off());
        outputs.slice([i / OUTPUTS..i / OUTPUTS + 1, i % OUTPUTS..i % OUTPUTS + 1]).reshape([1])
    };
    let jacobian = gradients_looped(&net, rows * OUTPUTS, one).expect("the loop works for every module").merged();
    let jacobian = matrix(jacobian.blocks[0].clone());
    let outputs = matrix(net.outputs(&batch, &mut Tape::off()));
    let mut sum = Matrix::from_fn(jacobian.cols, jacobian.cols, |_, _| 0.0);
    for r in 0..rows {
        let exponentials: Vec<f64> = outputs.row(r).iter().map(|o| o.exp()).collect();
        let total: f64 = exponentials.iter().sum();
        let p = |k: usize| exponentials[k] / total;
        let hessian = Matrix::from_fn(OUTPUTS, OUTPUTS, |k, l| match data.family {
            Family::Softmax => p(k) * (f64::from(u8::from(k == l)) - p(l)),
            Family::Gaussian => f64::from(u8::from(k == l)),
        });
        let j = Matrix::from_fn(OUTPUTS, jacobian.cols, |k, d| jacobian.at(r * OUTPUTS + k, d));
        sum = sum.plus(batch.weights[r] / 5.0, &j.transpose().times(&hessian).times(&j));
    }
    sum
}

/// The Hessian of the mean loss, `[D, D]`, one column after the other from gradients at four places.
pub fn hessian(data: &Data, device: &Device, dtype: DType) -> Matrix {
    const STEP: f64 = 1e-3;
    let device = device.clone().autodiff();
    let net = Net::new(&device, dtype);
    let one = |net: &Net, i: usize| {
        let batch = data.batch(&[i], &device, dtype);
        let task = NetTask(net.clone());
        task.loss(task.forward(&batch, &mut Tape::off()), &batch)
    };
    let slope = |net: &Net| {
        let all = gradients_looped(net, 5, one).expect("the loop works for every module").merged();
        let all = matrix(all.blocks[0].clone());
        Matrix::from_fn(1, all.cols, |_, d| (0..5).map(|i| all.at(i, d)).sum::<f64>() / 5.0)
    };
    let size = slope(&net).cols;
    let columns: Vec<Matrix> = (0..size)
        .map(|d| {
            let at = |times: f64| slope(&net.moved(d, times * STEP));
            let near = at(1.0).plus(-1.0, &at(-1.0));
            let far = at(2.0).plus(-1.0, &at(-2.0));
            Matrix::from_fn(1, size, |_, e| (8.0 * near.at(0, e) - far.at(0, e)) / (12.0 * STEP))
        })
        .collect();
    Matrix::from_fn(size, size, |i, j| columns[j].at(0, i))
}
