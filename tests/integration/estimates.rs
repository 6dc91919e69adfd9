//! Estimates of the curvature against the definition of Gauss-Newton.

mod case;
mod models;
mod products;
mod refined;

use burn::nn::Linear;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf::gradients::{Estimate, Family, GradientError, Likelihood, Sketch, Tape, Task, estimated};
use hyperinf::scoring::{ScoreError, Set, Source, TaskSource};
use hyperinf_tests::compare::{assert_close, assert_within, largest, matrix, precisions};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Matrix, fisher};

use self::case::{Batch, Data, Net, NetTask, gauss_newton};
pub(crate) use self::products::check_product_with_itself;
use crate::networks::Make;

const EXACT: Estimate = Estimate::GaussNewton { sketch: None };

/// Everything a source gives in one pass, `[m, D]`.
fn rows(source: &dyn Source) -> Matrix {
    let mut found = Matrix { rows: 0, cols: 0, values: Vec::new() };
    let visit = &mut |batch: hyperinf::scoring::Batch| {
        let part = matrix(batch.into_gradients().merged().blocks[0].clone());
        found.rows += part.rows;
        found.cols = part.cols;
        found.values.extend(part.values);
        Ok(())
    };
    source.pass(visit).expect("the task is well-formed");
    found
}

/// Every device in every type, with each kind of data, its task and batches of these samples.
fn each_case(groups: &[&[usize]], check: impl Fn(&str, f64, &Data, &Device, DType, &NetTask, &[Batch])) {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            for data in Data::all() {
                let what = format!("{name}, {dtype:?}, {:?}, several rows {}", data.family, data.named);
                let batches: Vec<Batch> = groups.iter().map(|group| data.batch(group, &device, dtype)).collect();
                check(&what, epsilon, &data, &device, dtype, &NetTask(Net::new(&device, dtype)), &batches);
            }
        }
    }
}

/// Whatever the batches: those of the second have 2, 3 and 1 rows in their longest samples.
#[test]
fn gauss_newton_is_its_definition() {
    for groups in [&[&[0, 1, 2, 3, 4][..]][..], &[&[0, 1], &[2, 4], &[3]]] {
        each_case(groups, |what, epsilon, data, device, dtype, task, batches| {
            let expected = gauss_newton(data, device, dtype);
            assert!(largest(&expected.values) > 1e-2, "{what}: nothing to compare");
            let found = fisher(&rows(&TaskSource::curvature(task, batches, EXACT)));
            // Sums of some 50 products of either sign.
            assert_close(what, &found.values, &expected.values, 100.0 * epsilon);
        });
    }
}

#[test]
fn the_empirical_estimate_is_the_gradients() {
    each_case(&[&[0, 1], &[2, 3, 4]], |what, _, _, _, _, task, batches| {
        let found = rows(&TaskSource::curvature(task, batches, Estimate::Empirical));
        assert_close(what, &found.values, &rows(&TaskSource::train(task, batches)).values, 0.0);
    });
}

/// `−1/2` is the slope of the error over draws, in logarithms; of eight seeds together.
fn check_rate(estimate: impl Fn(u64, usize) -> Estimate) {
    const DRAWS: [usize; 4] = [4, 16, 64, 256];
    for (name, device) in devices() {
        let (dtype, _) = precisions(&device)[0];
        for data in Data::all() {
            let exact = gauss_newton(&data, &device, dtype);
            let task = NetTask(Net::new(&device, dtype));
            let batch = data.batch(&[0, 1, 2, 3, 4], &device, dtype);
            let mut errors = [0.0; 4];
            for seed in 0..8 {
                let all = rows(&TaskSource::curvature(&task, [&batch], estimate(seed, DRAWS[3])));
                assert_eq!(all.rows, 5 * DRAWS[3]);
                for (error, draws) in errors.iter_mut().zip(DRAWS) {
                    // A pass does not depend on how many there are.
                    let first = Matrix::from_fn(5 * draws, all.cols, |i, j| all.at(i, j));
                    *error += norm(&fisher(&first).plus(-1.0, &exact)) / (8.0 * norm(&exact));
                }
            }
            let x: Vec<f64> = DRAWS.iter().map(|&draws| (draws as f64).ln()).collect();
            let y: Vec<f64> = errors.iter().map(|error| error.ln()).collect();
            let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
            let products = x.iter().zip(&y).map(|(a, b)| (a - mean(&x)) * (b - mean(&y))).sum::<f64>();
            let slope = products / x.iter().map(|a| (a - mean(&x)).powi(2)).sum::<f64>();
            let what =
                format!("{name}, {:?}, several rows {}: errors {errors:?}, slope {slope}", data.family, data.named);
            assert!((-0.65..-0.35).contains(&slope) && errors[3] < 0.2, "{what}");
        }
    }
}

fn norm(matrix: &Matrix) -> f64 {
    matrix.values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn sampled_labels_converge_to_the_true_fisher() {
    check_rate(|seed, draws| Estimate::Sampled { seed, draws });
}

#[test]
fn the_sketch_converges_to_gauss_newton() {
    check_rate(|seed, draws| Estimate::GaussNewton { sketch: Some(Sketch { draws, seed }) });
}

/// At `p = ½` the curvature of a logit is ¼. One cotangent weighted by the probabilities gives 0.
#[test]
fn an_even_choice_has_the_curvature_one_quarter() {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let layer = Make { device: device.clone(), dtype }.linear("layer", 1, 2, false);
            let task = Odds(Linear { weight: layer.weight.map(|w| w.zeros_like()), bias: None });
            let x = Tensor::<2>::ones([3, 1], (&device, dtype));
            for estimate in [EXACT, Estimate::Sampled { seed: 5, draws: 1 }, Estimate::Sampled { seed: 6, draws: 7 }] {
                let found = fisher(&rows(&TaskSource::curvature(&task, [&x], estimate)));
                let what = format!("{name}, {dtype:?}, {estimate:?}");
                assert_close(&what, &found.values, &[0.25, -0.25, -0.25, 0.25], 10.0 * epsilon);
            }
        }
    }
}

/// Logits of two classes from one number.
struct Odds(Linear);

impl Task for Odds {
    type Batch = Tensor<2>;

    fn forward(&self, x: &Tensor<2>, tape: &mut Tape) -> Tensor<2> {
        tape.linear("layer", &self.0, x.clone())
    }

    fn loss(&self, outputs: Tensor<2>, _: &Tensor<2>) -> Tensor<1> {
        log_softmax(outputs, 1).narrow(1, 0, 1).squeeze_dim::<1>(1).neg()
    }

    fn likelihood(&self, _: &Tensor<2>) -> Option<Likelihood> {
        Some(Likelihood::new(Family::Softmax))
    }
}

#[test]
fn labels_are_drawn_as_often_as_they_are_likely() {
    const ROWS: usize = 20_000;
    for (name, device) in devices() {
        let layer = Make { device: device.clone(), dtype: DType::F32 }.linear("layer", 1, 2, false);
        let logits = Tensor::<2>::from_data([[0.0, 2.0_f64.ln() as f32]], &device);
        let task = Odds(Linear { weight: layer.weight.map(|_| logits.clone()), bias: None });
        let found = rows(&TaskSource::curvature(
            &task,
            [Tensor::<2>::ones([ROWS, 1], &device)],
            Estimate::Sampled { seed: 1, draws: 1 },
        ));
        // `p − e_ŷ` at the first logit is ⅓ − 1 if it was drawn, else ⅓.
        let first = (0..ROWS).filter(|&i| found.at(i, 0) < 0.0).count() as f64 / ROWS as f64;
        // Four standard errors.
        assert_within(&name, &[first], &[1.0 / 3.0], 4.0 * (2.0 / 9.0 / ROWS as f64).sqrt());
    }
}

#[test]
fn labels_are_drawn_from_all_classes_in_every_type() {
    const ROWS: usize = 200;
    const CLASSES: usize = 2000;
    for (name, device) in devices() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            if !device.supports_dtype(dtype) {
                continue;
            }
            let layer = Make { device: device.clone(), dtype }.linear("layer", 1, CLASSES, false);
            let task = Odds(Linear { weight: layer.weight.map(|w| w.zeros_like()), bias: None });
            let x = Tensor::<2>::ones([ROWS, 1], (&device, dtype));
            let sampled = Estimate::Sampled { seed: 1, draws: 1 };
            let mut labels = Vec::new();
            estimated(&task, &x, 0, sampled, |captures| {
                let delta = matrix(captures[0].delta.clone().flatten::<2>(0, 1));
                labels.extend((0..ROWS).filter_map(|i| (0..CLASSES).find(|&k| delta.at(i, k) < 0.0)));
                Ok::<_, GradientError>(())
            })
            .expect("a likelihood");
            let what = format!("{name}, {dtype:?}");
            assert_eq!(labels.len(), ROWS, "{what}");
            let mean = labels.iter().sum::<usize>() as f64 / ROWS as f64 / CLASSES as f64;
            // Four standard errors of a uniform number's mean; and no two rows on a coarse grid.
            assert_within(&what, &[mean], &[0.5], 4.0 * (12.0 * ROWS as f64).sqrt().recip());
            labels.sort_unstable();
            labels.dedup();
            assert!(labels.len() > 3 * ROWS / 4, "{what}: {} labels", labels.len());
        }
    }
}

/// The same in every pass; another for each seed, batch and draw.
#[test]
fn randomness_is_that_of_seed_batch_and_draw() {
    let random = |seed, draws| {
        [Estimate::Sampled { seed, draws }, Estimate::GaussNewton { sketch: Some(Sketch { draws, seed }) }]
    };
    each_case(&[&[0, 1, 2], &[0, 1, 2]], |what, _, _, _, _, task, batches| {
        for (one, other) in random(1, 2).into_iter().zip(random(2, 2)) {
            let source = TaskSource::curvature(task, batches, one);
            let found = rows(&source);
            assert_eq!(found, rows(&source), "{what}");
            assert_ne!(found, rows(&TaskSource::curvature(task, batches, other)), "{what}: two seeds");
            let quarter = found.values.len() / 4;
            let part = |i: usize| &found.values[i * quarter..(i + 1) * quarter];
            assert_ne!(part(0), part(1), "{what}: two draws");
            assert_ne!(part(0), part(2), "{what}: two batches of the same samples");
        }
    });
}

// ---- what can go wrong -------------------------------------------------------------------------------------------

/// A likelihood that does not fit.
struct WrongLikelihood(Net, Option<Likelihood>);

impl Task for WrongLikelihood {
    type Batch = Batch;

    fn forward(&self, batch: &Batch, tape: &mut Tape) -> Tensor<2> {
        self.0.outputs(batch, tape)
    }

    fn loss(&self, outputs: Tensor<2>, _: &Batch) -> Tensor<1> {
        outputs.sum_dim(1).squeeze_dim(1)
    }

    fn likelihood(&self, _: &Batch) -> Option<Likelihood> {
        self.1.clone()
    }
}

#[test]
fn a_likelihood_that_does_not_fit_is_an_error() {
    for (name, device) in devices() {
        let batch = Data::new(Family::Softmax, false).batch(&[0, 1, 2], &device, DType::F32);
        let plain = Likelihood::new(Family::Softmax);
        let weights = |values: [f64; 3]| Some(Tensor::from_data(TensorData::new(values.to_vec(), [3]), &device));
        let error = |likelihood: Option<Likelihood>, estimate| {
            let task = WrongLikelihood(Net::new(&device, DType::F32), likelihood);
            let visited = estimated::<_, GradientError>(&task, &batch, 0, estimate, |_| Ok(()));
            visited.expect_err(&name).to_string()
        };
        assert!(error(None, EXACT).starts_with("the task has no likelihood"));
        assert_eq!(
            error(Some(plain.clone()), Estimate::Sampled { seed: 1, draws: 0 }),
            "there are no draws of the estimate"
        );
        let negative = Likelihood { weights: weights([1.0, -0.5, 1.0]), ..plain.clone() };
        assert_eq!(error(Some(negative), EXACT), "the likelihood gives output row 1 the weight -0.5");
        let nan = Likelihood { weights: weights([1.0, 1.0, f64::NAN]), ..plain.clone() };
        assert_eq!(error(Some(nan), EXACT), "the likelihood gives output row 2 the weight NaN");
        let short = Likelihood { samples: Some(vec![0, 1]), ..plain.clone() };
        assert_eq!(error(Some(short), EXACT), "the likelihood has 2 samples, but there are 3 output rows");
        let more = Likelihood { samples: Some(vec![0, 1, 3]), ..plain.clone() };
        assert!(error(Some(more), EXACT).contains("recorded with 3 samples, but the batch has 4 losses"));
        let source = WrongLikelihood(Net::new(&device, DType::F32), None);
        let refused = TaskSource::curvature(&source, [&batch], EXACT).pass(&mut |_| Ok(()));
        let is_expected =
            matches!(refused, Err(ScoreError::Gradients { set: Set::Curvature, source: GradientError::NoLikelihood }));
        assert!(is_expected, "{name}");
    }
}
