//! Estimates of whole models: language models, the digits, and where Gauss-Newton is the Hessian.

use burn::nn::Linear;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Tensor};
use hyperinf::curvature::{Damping, Storage};
use hyperinf::gradients::{Family, Likelihood, Tape, Target, Task, gradients};
use hyperinf::models::{CausalLm, LmHead, LmSample, SampleModel};
use hyperinf::scoring::{CurvatureFrom, Method, Options, QueryMode, TaskSource, attribute};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, matrix, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::digits::{Digits, arrays, expected, images};
use hyperinf_tests::oracle::{Matrix, fisher};

use super::{EXACT, rows};
use crate::networks::Make;

/// The loss of a sample is the sum over its rows of weight · −log p, as the likelihood says.
#[test]
fn the_likelihood_of_a_language_model_is_its_loss() {
    for (name, device) in devices() {
        let model: CausalLm = crate::decoder::model(&crate::decoder::sizes(), LmHead::Tied, &device);
        let sample = |tokens: &[u32], scored: &[bool]| LmSample { tokens: tokens.to_vec(), scored: scored.to_vec() };
        let samples = [
            sample(&[3, 1, 4, 1], &[false, false, true, true]),
            sample(&[5, 9], &[false, true]),
            sample(&[2; 3], &[false, true, true]),
        ];
        let batch = model.collate(&samples.iter().collect::<Vec<_>>()).expect("the samples fit");
        let outputs = model.forward(&batch, &mut Tape::off());
        let likelihood = model.likelihood(&batch).expect("it has one");
        let (rows, weights) = (likelihood.samples.expect("it names them"), likelihood.weights.expect("they differ"));
        let (logs, targets, weights) =
            (matrix(log_softmax(outputs.clone(), 1)), values(batch.targets.clone().float()), values(weights));
        let mut losses = vec![0.0; 3];
        for (r, sample) in rows.into_iter().enumerate() {
            losses[sample] -= weights[r] * logs.at(r, targets[r] as usize);
        }
        assert_close(&name, &values(model.loss(outputs, &batch)), &losses, 1e-6);
    }
}

/// Scores of the mean query by the full Gauss-Newton matrix, from another program.
#[test]
fn digits_gauss_newton() {
    let (arrays, expected) = (arrays(), expected("ggn"));
    for (name, device) in devices() {
        // 10,000 pseudo-samples of 2,410 parameters: in one type only.
        for (dtype, _) in precisions(&device).into_iter().take(1) {
            let task = Digits::new(&arrays, "", &device, dtype);
            let (train, query) = (images(&arrays, "train", &device, dtype), images(&arrays, "val", &device, dtype));
            let options = Options {
                method: Method::inverse(Storage::Dense, Exact),
                damping: Damping::Absolute(0.15),
                query: QueryMode::Mean,
                merged: true,
                ..Options::default()
            };
            let curvature = TaskSource::curvature(&task, &train, EXACT);
            let (train, query) = (TaskSource::train(&task, &train), TaskSource::query(&task, &query));
            let found =
                attribute(&train, &query, CurvatureFrom::Source(&curvature), &options).expect("it can be inverted");
            assert_close(&format!("{name}, {dtype:?}"), &found.scores.rows[0], &expected, 1e-4);
        }
    }
}

/// A linear model: its Hessian, by differences of its gradient, is its Gauss-Newton matrix.
#[test]
fn the_hessian_of_a_linear_model_is_gauss_newton() {
    const STEP: f64 = 1e-5;
    for (name, device) in devices() {
        if !device.supports_dtype(DType::F64) {
            continue;
        }
        let make = Make { device: device.clone(), dtype: DType::F64 };
        let layer = make.linear("layer", 4, 3, true);
        let x = tensor(&Matrix::noise(6, 4, 2), &device, DType::F64);
        let labels = tensor(&Matrix::from_fn(6, 3, |i, k| f64::from(u8::from(i % 3 == k))), &device, DType::F64);
        let batch = (x, labels);
        let mean_gradient = |at: usize, step: f64| {
            let moved = Matrix::from_fn(5, 3, |i, j| if i * 3 + j == at { step } else { 0.0 });
            let moved = tensor(&moved, &device, DType::F64);
            let weight = layer.weight.clone().map(|w| w + moved.clone().narrow(0, 0, 4));
            let bias = layer.bias.clone().map(|b| b.map(|b| b + moved.narrow(0, 4, 1).squeeze_dim(0)));
            let found = gradients(&Logistic(Linear { weight, bias }), &batch, Target::Loss);
            values(found.expect("the task is well-formed").sum().blocks[0].clone().div_scalar(6.0))
        };
        let hessian: Vec<f64> = (0..15)
            .flat_map(|at| {
                let (above, below) = (mean_gradient(at, STEP), mean_gradient(at, -STEP));
                above.into_iter().zip(below).map(|(a, b)| (a - b) / (2.0 * STEP)).collect::<Vec<_>>()
            })
            .collect();
        let task = Logistic(layer.clone());
        let found = fisher(&rows(&TaskSource::curvature(&task, [&batch], EXACT)));
        // The error of central differences is of the order STEP².
        assert_close(&name, &found.values, &hessian, 1e-8);
    }
}

/// Logits by one layer.
struct Logistic(Linear);

impl Task for Logistic {
    type Batch = (Tensor<2>, Tensor<2>);

    fn forward(&self, (x, _): &Self::Batch, tape: &mut Tape) -> Tensor<2> {
        tape.linear("layer", &self.0, x.clone())
    }

    fn loss(&self, outputs: Tensor<2>, (_, labels): &Self::Batch) -> Tensor<1> {
        (log_softmax(outputs, 1) * labels.clone()).sum_dim(1).squeeze_dim::<1>(1).neg()
    }

    fn likelihood(&self, _: &Self::Batch) -> Option<Likelihood> {
        Some(Likelihood::new(Family::Softmax))
    }
}
