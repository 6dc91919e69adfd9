//! The derivative through a training against finite differences in the weights of its samples.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::Command;

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear};
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf::gradients::{Tape, Task};
use hyperinf::models::{
    FinetuneConfig, ModelError, OptimizerChoice, Recording, SampleModel, TrainConfig, Unroll, Unrolled, finetune,
    weights,
};
use hyperinf_tests::compare::{assert_close, largest, precisions, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

use crate::networks::Make;

// ---- a small network in either type ----------------------------------------------------------------------------------

const INPUTS: usize = 4;
const CLASSES: usize = 3;

/// Inputs in hundredths, and a class.
#[derive(Clone, Hash)]
struct Point {
    x: [i32; INPUTS],
    class: usize,
}

fn points(count: usize, seed: u64) -> Vec<Point> {
    let noise = Matrix::noise(count, INPUTS, seed);
    let point = |i: usize| {
        let x: [i32; INPUTS] = std::array::from_fn(|k| (200.0 * noise.at(i, k)) as i32);
        Point { x, class: ((x[0] > 30) as usize + (x[1] + x[2] > 0) as usize) % CLASSES }
    };
    (0..count).map(point).collect()
}

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    dropout: Dropout,
    second: Linear,
}

impl Net {
    fn new(device: &Device, dtype: DType, dropout: f64) -> Self {
        let make = Make { device: device.clone(), dtype };
        let dropout = DropoutConfig::new(dropout).init();
        Self { first: make.linear("first", INPUTS, 5, true), dropout, second: make.linear("second", 5, CLASSES, true) }
    }
}

impl Task for Net {
    type Batch = (Tensor<2>, Tensor<2>);

    fn forward(&self, (x, _): &Self::Batch, tape: &mut Tape) -> Tensor<2> {
        let hidden = tape.linear("first", &self.first, x.clone()).tanh();
        let hidden = if self.device().is_autodiff() { self.dropout.forward(hidden) } else { hidden };
        tape.linear("second", &self.second, hidden)
    }

    fn loss(&self, outputs: Tensor<2>, (_, labels): &Self::Batch) -> Tensor<1> {
        (log_softmax(outputs, 1) * labels.clone()).sum_dim(1).squeeze_dim::<1>(1).neg()
    }
}

impl SampleModel for Net {
    type Sample = Point;

    fn collate(&self, samples: &[&Point]) -> Result<Self::Batch, ModelError> {
        let place = (&self.device(), self.first.weight.val().dtype());
        let n = samples.len();
        let x: Vec<f64> = samples.iter().flat_map(|sample| sample.x.map(|x| f64::from(x) / 100.0)).collect();
        let labels = samples.iter().flat_map(|s| (0..CLASSES).map(|k| f64::from(u8::from(k == s.class)))).collect();
        let tensor = |values: Vec<f64>, cols| Tensor::<2>::from_data(TensorData::new(values, [n, cols]), place);
        Ok((tensor(x, INPUTS), tensor(labels, CLASSES)))
    }

    fn length(sample: &Point) -> usize {
        1 + sample.class
    }

    fn device(&self) -> Device {
        self.first.weight.val().device()
    }
}

/// 12 steps.
fn config() -> FinetuneConfig {
    let schedule = TrainConfig {
        learning_rate: 0.03,
        warmup: 0.3,
        optimizer: OptimizerChoice::AdamW,
        weight_decay: 0.2,
        epochs: 4,
        batch_size: 7,
        by_length: true,
        seed: 3,
    };
    FinetuneConfig { schedule, ..FinetuneConfig::default() }
}

fn unrolled(model: &Net, train: &[Point], queries: &[Point], mean: bool, recording: &Recording) -> Unrolled {
    let measured = Net { dropout: DropoutConfig::new(0.0).init(), ..model.clone() };
    let unroll = Unroll { model, measured: &measured, train, queries, mean, recording, length: None };
    unroll.run(|_| ControlFlow::Continue(())).expect("it can be followed")
}

fn held(model: &Net, train: &[Point], config: &FinetuneConfig, every: usize) -> Recording {
    let go_on = |_| ControlFlow::Continue(());
    Recording::of_training(model.clone(), train, config, every, None, go_on).expect("training works")
}

/// The mean loss of the queries after the training.
fn measure(model: &Net, train: &[Point], queries: &[Point], config: &FinetuneConfig) -> f64 {
    let tuned = finetune(model.clone(), train, None, config, |_| {}).expect("training works").model;
    let batch = tuned.collate(&queries.iter().collect::<Vec<_>>()).expect("the samples fit");
    let losses = values(tuned.loss(tuned.forward(&batch, &mut Tape::off()), &batch));
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// Runs the test of this name in a separate process: dropout draws from the device's generator, which all threads of a
/// process share.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    const ALONE: &str = "HYPERINF_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let own = std::env::current_exe().expect("a test has a program");
    let run = Command::new(own).args([test, "--exact", "--test-threads=1"]).env(ALONE, "1").output();
    let run = run.expect("the program of the tests can be started");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

/// Scores are minus the slopes of the measure in the weights, by differences of four whole trainings each.
fn check(what: &str, dropout: f64, config: FinetuneConfig) {
    const STEP: f64 = 1e-4;
    for (name, device) in devices() {
        if !precisions(&device).iter().any(|(dtype, _)| *dtype == DType::F64) {
            continue;
        }
        let what = format!("{what}, {name}");
        let (train, queries) = (points(21, 1), points(6, 2));
        let model = Net::new(&device, DType::F64, dropout);
        let found = unrolled(&model, &train, &queries, true, &held(&model, &train, &config, 4));
        assert_eq!((found.steps, found.scores.len(), found.scores[0].len()), (12, 1, 21), "{what}");
        assert!(found.error < 1e-7, "{what}: the differences are off by {}", found.error);
        let own = config.weights.clone().unwrap_or_else(|| vec![1.0; train.len()]);
        let at = |row: usize, by: f64| {
            let mut weights = own.clone();
            weights[row] += by;
            measure(&model, &train, &queries, &FinetuneConfig { weights: Some(weights), ..config.clone() })
        };
        let slopes: Vec<f64> = (0..train.len())
            .map(|row| {
                let near = at(row, STEP) - at(row, -STEP);
                let far = at(row, 2.0 * STEP) - at(row, -2.0 * STEP);
                -(8.0 * near - far) / (12.0 * STEP)
            })
            .collect();
        assert!(largest(&slopes) > 1e-3, "{what}: nothing to compare in {slopes:?}");
        assert_close(&what, &found.scores[0], &slopes, 1e-6);
    }
}

#[test]
fn the_derivative_is_that_of_whole_trainings() {
    check("plain", 0.0, config());
}

#[test]
fn accumulation_is_followed() {
    check("pieces of three", 0.0, FinetuneConfig { micro_batch: Some(3), ..config() });
}

#[test]
fn dropout_is_followed() {
    alone("unrolled::dropout_is_followed", || {
        check("dropout", 0.3, FinetuneConfig { micro_batch: Some(4), ..config() });
    });
}

#[test]
fn clipping_is_followed() {
    // Some steps are clipped, and some are not.
    check("clipping", 0.0, FinetuneConfig { clip_norm: Some(0.45), ..config() });
}

#[test]
fn weights_are_followed() {
    let weights = (0..21).map(|i| 0.5 + f64::from(i % 4) / 3.0).collect();
    check("weights", 0.0, FinetuneConfig { weights: Some(weights), clip_norm: Some(0.5), ..config() });
}

#[test]
fn decay_alone_and_no_decay_are_followed() {
    for weight_decay in [0.0, 0.9] {
        let schedule = TrainConfig { weight_decay, warmup: 0.0, ..config().schedule };
        check("decay", 0.0, FinetuneConfig { schedule, ..config() });
    }
}

/// Without and with a velocity, clipped and with decay.
#[test]
fn gradient_descent_is_followed() {
    for momentum in [0.0, 0.8] {
        let optimizer = OptimizerChoice::Sgd { momentum };
        let schedule = TrainConfig { optimizer, learning_rate: 0.3, ..config().schedule };
        check("descent", 0.0, FinetuneConfig { schedule, ..config() });
        check("clipped descent", 0.0, FinetuneConfig { schedule, clip_norm: Some(0.45), ..config() });
    }
    // Steps are those of the definition, and states with a velocity lead to the same.
    let momentum = 0.8;
    let schedule = TrainConfig {
        optimizer: OptimizerChoice::Sgd { momentum },
        learning_rate: 0.3,
        batch_size: 21,
        ..config().schedule
    };
    let config = FinetuneConfig { schedule, clip_norm: None, ..config() };
    for (name, device) in devices() {
        let (train, queries) = (points(21, 4), points(5, 5));
        let model = Net::new(&device, DType::F32, 0.0);
        let (all, one) = (held(&model, &train, &config, 1), held(&model, &train, &config, 100));
        let of = |recording| unrolled(&model, &train, &queries, false, recording).scores;
        assert_eq!(of(&all), of(&one), "{name}");
        let states: Vec<Net> = (0..4).map(|at| all.model_at(at, model.clone()).expect("its parameters fit")).collect();
        let at = |state: &Net| -> BTreeMap<String, Vec<f64>> {
            let all = weights(state).expect("they can be read");
            all.into_iter().map(|(path, data)| (path, data.convert::<f64>().iter::<f64>().collect())).collect()
        };
        let parameters: Vec<_> = states.iter().map(at).collect();
        // From the second step on: the velocity is what the step before it went, and the gradient.
        let rates: Vec<f64> = (0..4).map(|step| schedule.learning_rate_at(step, 4)).collect();
        let kept = |step: usize| 1.0 - rates[step] * f64::from(schedule.weight_decay);
        let batch = model.collate(&train.iter().collect::<Vec<_>>()).expect("the samples fit");
        let tracked = states[1].clone().train();
        let loss = tracked.loss(tracked.forward(&batch, &mut Tape::off()), &batch).mean();
        let slopes = loss.backward();
        let gradient = values(tracked.first.weight.grad(&slopes).expect("it is trained").flatten::<1>(0, 1));
        let path = "first.weight";
        let went = |step: usize| -> Vec<f64> {
            let (before, after) = (&parameters[step][path], &parameters[step + 1][path]);
            before.iter().zip(after).map(|(before, after)| (kept(step) * before - after) / rates[step]).collect()
        };
        let expected: Vec<f64> = went(0).iter().zip(&gradient).map(|(v, g)| momentum * v + g).collect();
        assert_close(&name, &went(1), &expected, 1e-3);
    }
}

#[test]
fn the_mean_is_that_of_single_queries_whatever_is_recorded() {
    for (name, device) in devices() {
        let (train, queries) = (points(21, 4), points(5, 5));
        let model = Net::new(&device, DType::F32, 0.0);
        let of = |every, mean| unrolled(&model, &train, &queries, mean, &held(&model, &train, &config(), every));
        let mean = of(4, true);
        for every in [1, 5, 12, 100] {
            assert_eq!(of(every, true).scores, mean.scores, "{name}, every {every}");
        }
        let each = of(4, false);
        assert_eq!((each.scores.len(), each.measures.len()), (5, 5), "{name}");
        let of_each: Vec<f64> = (0..21).map(|row| each.scores.iter().map(|s| s[row]).sum::<f64>() / 5.0).collect();
        // Each direction has its own rounding in f32.
        assert_close(&name, &of_each, &mean.scores[0], 5e-3);
        // And rounds to what f64 says.
        if precisions(&device).len() > 1 {
            let model = Net::new(&device, DType::F64, 0.0);
            let exact = unrolled(&model, &train, &queries, true, &held(&model, &train, &config(), 4));
            let model = Net::new(&device, DType::F32, 0.0);
            let single = unrolled(&model, &train, &queries, true, &held(&model, &train, &config(), 4));
            assert!(single.error < 1e-3, "{name}: {}", single.error);
            assert_close(&name, &single.scores[0], &exact.scores[0], 5e-3);
        }
    }
}

#[test]
fn smoothness_is_what_another_training_finds() {
    for (name, device) in devices() {
        let (train, queries) = (points(60, 6), points(8, 7));
        let model = Net::new(&device, DType::F32, 0.0);
        let schedule = TrainConfig { learning_rate: 2e-3, batch_size: 20, ..config().schedule };
        let config = FinetuneConfig { schedule, ..config() };
        let recording = held(&model, &train, &config, 3);
        let unroll = Unroll {
            model: &model,
            measured: &model,
            train: &train,
            queries: &queries,
            mean: true,
            recording: &recording,
            length: None,
        };
        let first = unroll.run(|_| ControlFlow::Continue(())).expect("it can be followed");
        let mut steps = 0;
        let go_on = |done| {
            steps = done;
            ControlFlow::Continue(())
        };
        let found = unroll.smoothness(&first, 0.05, 9, go_on).expect("it can be trained again");
        assert_eq!((found.left_out.len(), steps), (3, 24), "{name}");
        let weights = (0..60).map(|row| f64::from(u8::from(!found.left_out.contains(&row)))).collect();
        let without = FinetuneConfig { weights: Some(weights), ..config.clone() };
        let change = measure(&model, &train, &queries, &without) - measure(&model, &train, &queries, &config);
        assert!((found.found - change).abs() < 1e-6, "{name}: {} and {change}", found.found);
        assert!(change.abs() > 1e-5, "{name}: nothing to compare");
        let sum: f64 = found.left_out.iter().map(|&row| first.scores[0][row]).sum();
        assert!((found.foretold - sum).abs() < 1e-12, "{name}: {} and {sum}", found.foretold);
        assert!(found.correlation.is_some_and(|r| (-1.0..=1.0).contains(&r)), "{name}: {:?}", found.correlation);
        for share in [0.0, 1.0, f64::NAN] {
            let error = unroll.smoothness(&first, share, 0, |_| ControlFlow::Continue(())).expect_err("no such share");
            assert!(error.to_string().contains("`share`"), "{error}");
        }
    }
}

// ---- weights -----------------------------------------------------------------------------------------------------------

#[test]
fn weights_of_one_change_nothing_and_of_zero_take_a_sample_out() {
    for (name, device) in devices() {
        let train = points(21, 1);
        let model = Net::new(&device, DType::F32, 0.0);
        let run = |train: &[Point], given: Option<Vec<f64>>| {
            let config = FinetuneConfig { weights: given, ..config() };
            let tuned = finetune(model.clone(), train, None, &config, |_| {}).expect("training works");
            weights(&tuned.model).expect("weights can be read")
        };
        assert_eq!(run(&train, None), run(&train, Some(vec![1.0; 21])), "{name}");
        let mut other = train.clone();
        other[5].x = [70, -20, 30, 90];
        let without = |row: usize| Some((0..21).map(|i| f64::from(u8::from(i != row))).collect());
        assert_ne!(run(&train, None), run(&other, None), "{name}");
        assert_eq!(run(&train, without(5)), run(&other, without(5)), "{name}");
    }
}

#[test]
fn weights_that_do_not_fit_are_errors() {
    let (_, device) = devices().remove(0);
    let train = points(21, 1);
    let error = |given: Vec<f64>| {
        let config = FinetuneConfig { weights: Some(given), ..config() };
        finetune(Net::new(&device, DType::F32, 0.0), &train, None, &config, |_| {}).expect_err("no such weights")
    };
    assert!(matches!(error(vec![1.0; 20]), ModelError::Weights { weights: 20, samples: 21 }));
    let bad = error([vec![1.0; 20], vec![f64::NAN]].concat()).to_string();
    assert!(bad.contains("`weights` is NaN"), "{bad}");
}

#[test]
fn a_recording_is_taken_again_with_other_weights() {
    for (name, device) in devices() {
        for (dtype, _) in precisions(&device) {
            let (train, model) = (points(21, 1), Net::new(&device, dtype, 0.0));
            let recording = held(&model, &train, &config(), 5);
            // The recording has the first parameters, whatever those of the model are now.
            let now = recording.apply(model.clone()).expect("they fit");
            let without = |row: usize| (0..21).map(|i| f64::from(u8::from(i != row))).collect();
            for given in [vec![1.0; 21], without(5)] {
                let again = recording.reweighted(&now, &train, given.clone(), |_| ControlFlow::Continue(()));
                let again = again.and_then(|again| again.apply(now.clone())).expect("training works");
                let config = FinetuneConfig { weights: Some(given), ..config() };
                let by_hand = finetune(model.clone(), &train, None, &config, |_| {}).expect("training works").model;
                let [found, expected] = [&again, &by_hand].map(|net| weights(net).expect("weights can be read"));
                assert_eq!(found, expected, "{name}, {dtype:?}");
            }
            let few = recording.reweighted(&model, &train, vec![1.0], |_| ControlFlow::Continue(())).map(drop);
            assert!(matches!(few, Err(ModelError::Weights { weights: 1, samples: 21 })), "{name}");
        }
    }
}
