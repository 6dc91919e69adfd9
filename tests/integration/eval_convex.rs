//! Ridge and logistic regression: exact leave-one-out, and what influence makes of it.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf::curvature::{Damping, Storage};
use hyperinf::eval::{
    Bank, Logistic, Proximal, Ridge, Rows, TruthError, leave_one_out, pearson, random_scores, spearman,
};
use hyperinf::gradients::{Estimate, Family, Likelihood, Tape, Task};
use hyperinf::scoring::{CurvatureFrom, Method, Options, TaskSource, attribute};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, precisions};
use hyperinf_tests::devices;

const WIDTH: usize = 5;

/// Random features with a constant one, and targets from `of(row, noise)`.
fn rows(count: usize, seed: u64, of: impl Fn(&[f64], f64) -> f64) -> Rows {
    let noise = random_scores(1, count, seed + 100).remove(0);
    let features: Vec<Vec<f64>> = random_scores(count, WIDTH, seed)
        .into_iter()
        .map(|mut row| {
            row[WIDTH - 1] = 1.0;
            row
        })
        .collect();
    let targets = features.iter().zip(noise).map(|(row, noise)| of(row, noise)).collect();
    Rows { width: WIDTH, features: features.concat(), targets }
}

fn target(row: &[f64], noise: f64) -> f64 {
    2.0 * row[0] - row[1] + 0.5 * row[2] + 0.3 + 0.8 * noise
}

fn ridge() -> Ridge {
    Ridge { train: rows(40, 1, target), queries: rows(6, 2, target), penalty: 0.7 }
}

fn logistic() -> Logistic {
    let target = |row: &[f64], noise: f64| f64::from(u8::from(2.0 * row[0] - 1.5 * row[1] + 1.2 * noise > 0.0));
    Logistic { train: rows(200, 3, target), queries: rows(8, 4, target), penalty: 1.0 }
}

#[test]
fn leaving_out_of_ridge_is_exact_without_training() {
    let task = ridge();
    let all: Vec<usize> = (0..40).collect();
    let retrained = leave_one_out(&task, &all, &[0], &mut Bank::memory(&task), &|_, _| {}).expect("it is convex");
    let closed = task.leave_one_out().expect("it is positive definite");
    for (query, (closed, retrained)) in closed.iter().zip(&retrained.effects).enumerate() {
        assert_close(&format!("query {query}"), closed, retrained, 1e-10);
    }
    // To first order it differs by 1/(1 − h) and a square, which fall as 1/n against it.
    let correlation = |task: &Ridge| {
        let pairs = [task.influence(), task.leave_one_out()].map(|found| found.expect("it is positive definite"));
        let found: Vec<f64> = pairs[0].iter().zip(&pairs[1]).map(|(a, b)| pearson(a, b).expect("it varies")).collect();
        found.into_iter().fold(1.0, f64::min)
    };
    let larger = Ridge { train: rows(1000, 1, target), ..ridge() };
    let found = [correlation(&task), correlation(&larger)];
    assert!(found[0] < found[1] && found[1] > 0.99, "{found:?}");
}

#[test]
fn logistic_regression_is_trained_to_the_end_and_influence_foretells_it() {
    let task = logistic();
    let all: Vec<usize> = (0..200).collect();
    let theta = task.fit(&all).expect("it converges");
    // Σ (σ(x θ) − y) x + α θ, written out.
    let mut gradient: Vec<f64> = theta.iter().map(|t| task.penalty * t).collect();
    for i in all.iter().copied() {
        let z: f64 = task.train.row(i).iter().zip(&theta).map(|(x, t)| x * t).sum();
        let slope = 1.0 / (1.0 + (-z).exp()) - task.train.targets[i];
        gradient.iter_mut().zip(task.train.row(i)).for_each(|(g, x)| *g += slope * x);
    }
    let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!(norm <= 1e-10 * 200.0, "{norm:e}");
    let mut bank = Bank::memory(&task);
    let retrained = leave_one_out(&task, &all, &[0], &mut bank, &|_, _| {}).expect("it converges");
    for (first, exact) in task.influence().expect("it converges").iter().zip(&retrained.effects) {
        let found = pearson(first, exact).expect("it varies");
        assert!(found > 0.99, "{found}");
    }
}

#[test]
fn fewer_samples_than_weights_need_a_penalty() {
    let ridge = Ridge { penalty: 0.0, ..ridge() }.fit(&[0, 1]);
    let logistic = Logistic { penalty: 0.0, ..logistic() }.fit(&[0, 1]);
    for result in [ridge, logistic] {
        let error = result.expect_err("two samples for five weights");
        assert!(matches!(error, TruthError::NotPositiveDefinite { parameters: WIDTH, .. }), "{error}");
    }
}

/// The ridge's model as a task: one linear layer, `½ (o − y)²`.
#[derive(Module, Debug)]
struct LinearModel {
    layer: Linear,
}

impl Task for LinearModel {
    type Batch = (Tensor<2>, Tensor<2>);

    fn forward(&self, (x, _): &Self::Batch, tape: &mut Tape) -> Tensor<2> {
        tape.linear("layer", &self.layer, x.clone())
    }

    fn loss(&self, outputs: Tensor<2>, (_, y): &Self::Batch) -> Tensor<1> {
        (outputs - y.clone()).powi_scalar(2).sum_dim(1).squeeze_dim::<1>(1).div_scalar(2.0)
    }

    fn likelihood(&self, _batch: &Self::Batch) -> Option<Likelihood> {
        Some(Likelihood::new(Family::Gaussian))
    }
}

fn tensor(values: &[f64], cols: usize, device: &Device, dtype: DType) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len() / cols, cols]), (device, dtype))
}

fn batch(rows: &Rows, device: &Device, dtype: DType) -> (Tensor<2>, Tensor<2>) {
    (tensor(&rows.features, WIDTH, device, dtype), tensor(&rows.targets, 1, device, dtype))
}

fn model(ridge: &Ridge, device: &Device, dtype: DType) -> LinearModel {
    let theta = ridge.fit(&(0..ridge.train.len()).collect::<Vec<_>>()).expect("it is positive definite");
    LinearModel { layer: Linear { weight: Param::from_tensor(tensor(&theta, 1, device, dtype)), bias: None } }
}

#[test]
fn scores_over_n_are_the_first_order_leave_one_out() {
    let ridge = ridge();
    let n = ridge.train.len() as f64;
    let expected = ridge.influence().expect("it is positive definite");
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let task = model(&ridge, &device, dtype);
            let (train, query) = ([batch(&ridge.train, &device, dtype)], [batch(&ridge.queries, &device, dtype)]);
            let curvature = TaskSource::curvature(&task, &train, Estimate::GaussNewton { sketch: None });
            let options = Options {
                method: Method::inverse(Storage::Full, Exact),
                damping: Damping::Absolute(ridge.penalty / n),
                ..Options::default()
            };
            let (train, query) = (TaskSource::train(&task, &train), TaskSource::query(&task, &query));
            let found = attribute(&train, &query, CurvatureFrom::Source(&curvature), &options)
                .expect("the model is well-formed");
            for (row, expected) in found.scores.rows.iter().zip(&expected) {
                let found: Vec<f64> = row.iter().map(|score| score / n).collect();
                // The condition of the problem is below 100; residuals of samples cancel a little more.
                assert_close(&format!("{name} {dtype:?}"), &found, expected, 1e4 * epsilon);
            }
        }
    }
}

#[test]
fn proximal_responses_are_the_influence_as_the_weight_goes_to_zero() {
    let ridge = ridge();
    let n = ridge.train.len() as f64;
    let samples = [0, 7, 21, 39];
    let first = ridge.influence().expect("it is positive definite");
    for (name, device) in devices() {
        let dtype = DType::F64;
        if !device.supports_dtype(dtype) {
            continue;
        }
        let task = model(&ridge, &device, dtype);
        // In two batches: samples are counted over both.
        let (x, y) = batch(&ridge.train, &device, dtype);
        let train: Vec<_> = x.split(25, 0).into_iter().zip(y.split(25, 0)).collect();
        let query = [batch(&ridge.queries, &device, dtype)];
        let error = |weight: f64| {
            let proximal = Proximal { weight, tolerance: 1e-9, ..Proximal::new(ridge.penalty / n) };
            let found = proximal.responses(&task, &train, &query, &samples).expect("the model is well-formed");
            assert!(found.residuals.iter().all(|&r| r <= 1e-9), "{name}: {:?}", found.residuals);
            let mut worst: f64 = 0.0;
            for (effects, first) in found.effects.iter().zip(&first) {
                for (effect, &sample) in effects.iter().zip(&samples) {
                    let expected = n * first[sample];
                    worst =
                        worst.max((effect - expected).abs() / (n * first.iter().fold(0.0_f64, |m, v| m.max(v.abs()))));
                }
            }
            worst
        };
        let errors = [0.1, 0.01, 0.001].map(error);
        // First order: a tenth of the weight leaves a tenth of the difference.
        for pair in errors.windows(2) {
            let ratio = pair[0] / pair[1];
            assert!((8.0..12.5).contains(&ratio), "{name}: {errors:?}");
        }
        assert!(errors[2] < 1e-3, "{name}: {errors:?}");
        // All of the weight: on a quadratic problem leaving the sample out, at λ = α/n.
        let proximal = Proximal { tolerance: 1e-10, ..Proximal::new(ridge.penalty / n) };
        let found = proximal.responses(&task, &train, &query, &samples).expect("the model is well-formed");
        for (effects, exact) in found.effects.iter().zip(ridge.leave_one_out().expect("it is positive definite")) {
            let expected: Vec<f64> = samples.iter().map(|&sample| n * exact[sample]).collect();
            assert_close(&name, effects, &expected, 1e-7);
            assert!(spearman(effects, &expected).expect("it varies") > 0.999);
        }
    }
}

#[test]
fn proximal_settings_are_checked() {
    let (_, device) = devices().remove(0);
    let ridge = ridge();
    let task = model(&ridge, &device, DType::F32);
    let train = [batch(&ridge.train, &device, DType::F32)];
    let run = |proximal: Proximal, sample: usize| proximal.responses(&task, &train, &train, &[sample]);
    for proximal in [Proximal::new(0.0), Proximal::new(f64::NAN), Proximal { weight: 0.0, ..Proximal::new(1.0) }] {
        let error = run(proximal, 0).expect_err("a setting is out of its range");
        assert!(matches!(error, TruthError::Setting { .. }), "{error}");
    }
    let error = run(Proximal::new(1.0), 40).expect_err("there are 40 samples");
    assert!(matches!(error, TruthError::Subset { value: 40, samples: 40, .. }), "{error}");
    let frozen = LinearModel { layer: task.layer.clone() }.no_grad();
    let error = Proximal::new(1.0).responses(&frozen, &train, &train, &[0]).expect_err("nothing is trained");
    assert!(matches!(error, TruthError::Gradients(_)), "{error}");
}
