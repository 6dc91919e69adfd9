//! Whether a device computes what it should: a few operations and one small pass with a tape, against the same
//! arithmetic in f64 on the host.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::activation::{log_softmax, relu, softmax};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use hyperinf_gradients::{Tape, Target, Task, gradients};

/// An operation whose results are wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WrongResult {
    /// A number differs by more than rounding can.
    #[error("{operation}: number {place} is {found:e}, but it should be {expected:e}")]
    Differs {
        /// What was computed.
        operation: &'static str,
        /// Which number of the result, from 0.
        place: usize,
        /// The device's number.
        found: f64,
        /// The right number.
        expected: f64,
    },
    /// The device gave another number of values.
    #[error("{operation}: {found} numbers came back instead of {expected}")]
    Count {
        /// What was computed.
        operation: &'static str,
        /// The number of values that came back.
        found: usize,
        /// The right number.
        expected: usize,
    },
    /// The device failed.
    #[error("{operation}: {reason}")]
    Failed {
        /// What was computed.
        operation: &'static str,
        /// The device's message.
        reason: String,
    },
}

/// The largest difference that rounding explains, relative to the largest number of the result; products on tensor
/// cores have 10 bits.
const LIMIT: f64 = 5e-3;

/// Compares operations of a device with the same arithmetic on the host, and a small model's gradients per sample.
///
/// It takes some tens of milliseconds on a processor, and a few seconds on a graphics card that has to compile its
/// kernels first.
///
/// # Errors
///
/// The first operation that is wrong.
pub fn check_device(device: &Device) -> Result<(), WrongResult> {
    CHECKS.iter().try_for_each(|(operation, check)| {
        let (found, expected) = check(device);
        let found = match found.into_data().convert::<f32>().try_into_vec::<f32>() {
            Ok(found) => found.into_iter().map(f64::from).collect::<Vec<_>>(),
            Err(reason) => return Err(WrongResult::Failed { operation, reason: format!("{reason:?}") }),
        };
        compare(operation, &found, &expected)
    })
}

fn compare(operation: &'static str, found: &[f64], expected: &[f64]) -> Result<(), WrongResult> {
    if found.len() != expected.len() {
        return Err(WrongResult::Count { operation, found: found.len(), expected: expected.len() });
    }
    let largest = expected.iter().fold(1e-3, |largest: f64, value| largest.max(value.abs()));
    // False for NaN.
    let right = |(found, expected): (&f64, &f64)| (found - expected).abs() <= LIMIT * largest;
    match found.iter().zip(expected).position(|both| !right(both)) {
        None => Ok(()),
        Some(place) => Err(WrongResult::Differs { operation, place, found: found[place], expected: expected[place] }),
    }
}

type Check = fn(&Device) -> (Tensor<1>, Vec<f64>);

/// Each with sizes that are no multiples of a kernel's tile, and one that is.
const CHECKS: [(&str, Check); 8] = [
    ("operations of single numbers", elementwise),
    ("a product of matrices", |device| product(device, [5, 7, 3])),
    ("a product of larger matrices", |device| product(device, [70, 64, 33])),
    ("a batch of products", batched),
    ("sums and means over a dimension", reductions),
    ("selection, joining and masks", selection),
    ("softmax", softmaxes),
    ("per-sample gradients of a small network", network),
];

/// Numbers between −1 and 1 that look random.
fn numbers(count: usize, seed: usize) -> Vec<f64> {
    let each = |i: usize| (((i + 1) * (2 * seed + 7919) * 104_729) % 2003) as f64 / 1001.0 - 1.0;
    (0..count).map(each).collect()
}

fn tensor<const D: usize>(values: &[f64], shape: [usize; D], device: &Device) -> Tensor<D> {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A row-major matrix on the host.
struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn numbers(rows: usize, cols: usize, seed: usize) -> Self {
        Self { rows, cols, values: numbers(rows * cols, seed) }
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.cols..(row + 1) * self.cols]
    }

    fn at(&self, row: usize, col: usize) -> f64 {
        self.values[row * self.cols + col]
    }

    fn times(&self, other: &Self) -> Self {
        let entry = |row: usize, col: usize| (0..self.cols).map(|k| self.at(row, k) * other.at(k, col)).sum::<f64>();
        let all = (0..self.rows).flat_map(|row| (0..other.cols).map(move |col| (row, col)));
        Self { rows: self.rows, cols: other.cols, values: all.map(|(row, col)| entry(row, col)).collect() }
    }

    fn on(&self, device: &Device) -> Tensor<2> {
        tensor(&self.values, [self.rows, self.cols], device)
    }
}

fn elementwise(device: &Device) -> (Tensor<1>, Vec<f64>) {
    let x = numbers(1000, 1);
    let on = tensor(&x, [1000], device);
    let found = (on.clone() * 2.0 + 1.0).exp() / (on.clone().square() + 0.5).sqrt() - on.clone().sin() * on.tanh();
    let right = |x: &f64| (2.0 * x + 1.0).exp() / (x * x + 0.5).sqrt() - x.sin() * x.tanh();
    (found, x.iter().map(right).collect())
}

/// `A B`, and `A B` from a transposed view of `Bᵀ`.
fn product(device: &Device, [rows, inner, cols]: [usize; 3]) -> (Tensor<1>, Vec<f64>) {
    let (a, b) = (Matrix::numbers(rows, inner, 2), Matrix::numbers(inner, cols, 3));
    let plain = a.on(device).matmul(b.on(device));
    let turned = a.on(device).matmul(b.on(device).transpose().clone().mul_scalar(1.0).transpose());
    let right = a.times(&b).values;
    (Tensor::cat(vec![plain.flatten(0, 1), turned.flatten(0, 1)], 0), [&right[..], &right[..]].concat())
}

fn batched(device: &Device) -> (Tensor<1>, Vec<f64>) {
    let pairs: Vec<_> = (0..3).map(|seed| (Matrix::numbers(9, 17, seed), Matrix::numbers(17, 6, seed + 7))).collect();
    let stack = |all: Vec<Tensor<2>>| Tensor::stack::<3>(all, 0);
    let a = stack(pairs.iter().map(|(a, _)| a.on(device)).collect());
    let b = stack(pairs.iter().map(|(_, b)| b.on(device)).collect());
    (a.matmul(b).flatten(0, 2), pairs.iter().flat_map(|(a, b)| a.times(b).values).collect())
}

fn reductions(device: &Device) -> (Tensor<1>, Vec<f64>) {
    let x = Matrix::numbers(37, 130, 4);
    let on = x.on(device);
    let rows = on.clone().sum_dim(1).flatten::<1>(0, 1);
    let cols = on.clone().mean_dim(0).flatten::<1>(0, 1);
    let largest = on.clone().max_dim(1).flatten::<1>(0, 1);
    let found = Tensor::cat(vec![rows, cols, largest, on.sum()], 0);
    let each_row = || (0..x.rows).map(|row| x.row(row));
    let mut right: Vec<f64> = each_row().map(|row| row.iter().sum()).collect();
    right.extend((0..x.cols).map(|col| each_row().map(|row| row[col]).sum::<f64>() / x.rows as f64));
    right.extend(each_row().map(|row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
    right.push(x.values.iter().sum());
    (found, right)
}

fn selection(device: &Device) -> (Tensor<1>, Vec<f64>) {
    let x = Matrix::numbers(11, 5, 5);
    let on = x.on(device);
    let rows = [10_i64, 0, 3, 3, 7];
    let index = || Tensor::<1, Int>::from_data(TensorData::from(rows), device);
    let chosen = on.clone().select(0, index());
    let gathered = chosen.clone().gather(1, Tensor::from_data(TensorData::from([[4_i64], [0], [2], [1], [3]]), device));
    let hidden: Vec<bool> = (0..25).map(|place| place % 3 == 0).collect();
    let mask = Tensor::<2, Bool>::from_data(TensorData::new(hidden.clone(), [5, 5]), device);
    let masked = chosen.clone().mask_fill(mask, -2.0);
    let part = on.slice([2..9, 1..4]);
    let parts = vec![chosen.flatten(0, 1), gathered.flatten(0, 1), masked.flatten(0, 1), part.flatten::<1>(0, 1)];
    let all: Vec<f64> = rows.iter().flat_map(|&row| x.row(row as usize).to_vec()).collect();
    let mut right = all.clone();
    right.extend([4, 0, 2, 1, 3].iter().zip(rows).map(|(&col, row)| x.at(row as usize, col)));
    right.extend(all.iter().zip(hidden).map(|(&value, hidden)| if hidden { -2.0 } else { value }));
    right.extend((2..9).flat_map(|row| x.row(row)[1..4].to_vec()));
    (Tensor::cat(parts, 0), right)
}

fn softmax_of(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
    row.iter().map(|x| (x - largest).exp() / sum).collect()
}

/// With a mask of large negative numbers, as in attention.
fn softmaxes(device: &Device) -> (Tensor<1>, Vec<f64>) {
    let mut x = Matrix::numbers(19, 33, 6);
    for (place, value) in x.values.iter_mut().enumerate() {
        *value = if place % 4 == 1 { -1e4 } else { *value * 8.0 };
    }
    let right = (0..x.rows).flat_map(|row| softmax_of(x.row(row))).collect();
    (softmax(x.on(device), 1).flatten(0, 1), right)
}

/// Two linear layers with a ReLU between them, and cross-entropy.
struct Network {
    first: Linear,
    second: Linear,
}

const SIZES: [usize; 4] = [13, 20, 9, 5];

impl Network {
    fn layer(rows: usize, cols: usize, seed: usize, device: &Device) -> Linear {
        let weight = Param::from_tensor(Matrix::numbers(rows, cols, seed).on(device));
        Linear { weight, bias: Some(Param::from_tensor(tensor(&numbers(cols, seed + 1), [cols], device))) }
    }
}

impl Task for Network {
    type Batch = (Tensor<2>, Tensor<2>);

    fn forward(&self, (x, _): &Self::Batch, tape: &mut Tape) -> Tensor<2> {
        let hidden = relu(tape.linear("first", &self.first, x.clone()));
        tape.linear("second", &self.second, hidden)
    }

    fn loss(&self, outputs: Tensor<2>, (_, labels): &Self::Batch) -> Tensor<1> {
        (log_softmax(outputs, 1) * labels.clone()).sum_dim(1).squeeze_dim::<1>(1).neg()
    }
}

fn network(device: &Device) -> (Tensor<1>, Vec<f64>) {
    let [n, input, hidden, classes] = SIZES;
    let model = Network {
        first: Network::layer(input, hidden, 11, device),
        second: Network::layer(hidden, classes, 13, device),
    };
    let x = Matrix::numbers(n, input, 15);
    let label = |row: usize| row % classes;
    let one_hot: Vec<f64> =
        (0..n * classes).map(|place| f64::from(u8::from(place % classes == label(place / classes)))).collect();
    let found = gradients(&model, &(x.on(device), tensor(&one_hot, [n, classes], device)), Target::Loss)
        .expect("both layers reach the loss");
    let found = found.blocks.into_iter().map(|block| block.flatten::<1>(0, 2)).collect();

    let with_one = |row: &[f64]| [row, &[1.0]].concat();
    let outer = |a: &[f64], delta: &[f64]| -> Vec<f64> {
        a.iter().flat_map(|a| delta.iter().map(move |delta| a * delta)).collect()
    };
    let affine = |row: &[f64], cols: usize, seed: usize| -> Vec<f64> {
        let (weight, bias) = (Matrix::numbers(row.len(), cols, seed), numbers(cols, seed + 1));
        (0..cols).map(|col| bias[col] + (0..row.len()).map(|k| row[k] * weight.at(k, col)).sum::<f64>()).collect()
    };
    let second = Matrix::numbers(hidden, classes, 13);
    let (mut of_first, mut of_second) = (Vec::new(), Vec::new());
    for row in 0..n {
        let before = affine(x.row(row), hidden, 11);
        let after: Vec<f64> = before.iter().map(|x| x.max(0.0)).collect();
        let mut delta = softmax_of(&affine(&after, classes, 13));
        delta[label(row)] -= 1.0;
        let back =
            |k: usize| if before[k] > 0.0 { (0..classes).map(|c| delta[c] * second.at(k, c)).sum() } else { 0.0 };
        of_first.extend(outer(&with_one(x.row(row)), &(0..hidden).map(back).collect::<Vec<f64>>()));
        of_second.extend(outer(&with_one(&after), &delta));
    }
    (Tensor::cat(found, 0), [of_first, of_second].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_numbers_are_found_and_rounding_is_not() {
        let right = [1.0, -2.0, 0.0];
        assert_eq!(compare("sum", &[1.004, -2.0, 0.004], &right), Ok(()));
        for (place, found) in [(0, [f64::NAN, -2.0, 0.0]), (1, [1.0, 2.0, 0.0]), (2, [1.0, -2.0, f64::INFINITY])] {
            let error = compare("sum", &found, &right).expect_err("a wrong number");
            assert!(
                matches!(error, WrongResult::Differs { operation: "sum", place: at, .. } if at == place),
                "{error}"
            );
        }
        let short = compare("sum", &[1.0], &right);
        assert_eq!(short, Err(WrongResult::Count { operation: "sum", found: 1, expected: 3 }));
    }
}
