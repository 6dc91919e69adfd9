//! The built-in task: its data, and its own training loop against Burn's gradients.

use burn::module::Module;
use burn::tensor::{DType, Device, Gradients as Backward, Tensor};
use hyperinf::curvature::Damping;
use hyperinf::eval::digits::{DigitsTask, Images, Length, Optimizer, Perceptron, Recipe, digits};
use hyperinf::eval::digits::{Labelled, PerceptronModule};
use hyperinf::eval::{Bank, LdsConfig, LdsTruth, Proximal, Retrain, TruthError, pearson, random_scores};
use hyperinf::gradients::{Estimate, Tape, Target, Task, gradients};
use hyperinf::scoring::{CurvatureFrom, Options, TaskSource, attribute};
use hyperinf_tests::compare::{assert_close, precisions, values};
use hyperinf_tests::devices;

fn split(train: usize, queries: usize) -> (Images, Images) {
    digits().expect("the data are whole").split(train, queries, 1).expect("there are as many")
}

fn task(train: usize, queries: usize, recipe: Recipe) -> DigitsTask {
    let (train, queries) = split(train, queries);
    DigitsTask { train, queries, hidden: vec![16], recipe }
}

#[test]
fn the_digits_are_those_of_the_file() {
    let images = digits().expect("the data are whole");
    assert_eq!(images.len(), 1797);
    let first = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0].map(|v: u8| f64::from(v) / 16.0);
    assert_eq!((&images.image(0)[..16], images.labels[0]), (&first[..], 0));
    let mut counts = [0; 10];
    images.labels.iter().for_each(|&label| counts[label] += 1);
    assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    assert!(images.pixels.iter().all(|p| (0.0..=1.0).contains(p)));

    let (train, queries) = images.split(1000, 797, 0).expect("all of them");
    let mut seen: Vec<Vec<u64>> = (0..1000).map(|i| train.image(i).iter().map(|p| p.to_bits()).collect()).collect();
    seen.extend((0..797).map(|i| queries.image(i).iter().map(|p| p.to_bits()).collect()));
    let mut all: Vec<Vec<u64>> = (0..1797).map(|i| images.image(i).iter().map(|p| p.to_bits()).collect()).collect();
    seen.sort();
    all.sort();
    assert_eq!(seen, all, "every image once");
    let error = images.split(1000, 798, 0).expect_err("one too many");
    assert!(matches!(error, TruthError::Setting { .. }), "{error}");

    let mut noisy = train.clone();
    let flipped = noisy.mislabel(0.2, 3).expect("a fifth");
    let wrong: Vec<bool> = noisy.labels.iter().zip(&train.labels).map(|(a, b)| a != b).collect();
    assert_eq!((wrong.iter().filter(|w| **w).count(), &wrong), (200, &flipped));
}

/// The parameters layer by layer, weights above biases, as [`Perceptron`] has them.
fn parameters(module: &PerceptronModule, of: impl Fn(Tensor<2>, Tensor<1>) -> (Tensor<2>, Tensor<1>)) -> Vec<Vec<f64>> {
    let layer = |layer: &burn::nn::Linear| {
        let bias = layer.bias.as_ref().expect("every layer has a bias");
        let (weight, bias) = of(layer.weight.val(), bias.val());
        [values(weight), values(bias)].concat()
    };
    module.layers.iter().map(layer).collect()
}

fn backward(module: &PerceptronModule, batch: &Labelled) -> (f64, Vec<Vec<f64>>) {
    let loss = module.loss(module.forward(batch, &mut Tape::off()), batch).mean();
    let value = values(loss.clone().without_autodiff())[0];
    let found: Backward = loss.backward();
    let gradient = |weight: Tensor<2>, bias: Tensor<1>| {
        (weight.grad(&found).expect("it reaches the loss"), bias.grad(&found).expect("it reaches the loss"))
    };
    (value, parameters(module, gradient))
}

#[test]
fn the_perceptrons_gradients_are_burns() {
    let (images, _) = split(37, 5);
    let perceptron = Perceptron::new(&[16, 12], 4);
    let (losses, predictions) = perceptron.losses(&images);
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let module = perceptron.module(&device, dtype);
            let batch = images.batches(100, &device, dtype).remove(0);
            let (loss, expected) = backward(&module.clone().train(), &batch);
            let tolerance = 100.0 * epsilon;
            let what = format!("{name} {dtype:?}");
            assert_close(&what, &[losses.iter().sum::<f64>() / 37.0], &[loss], tolerance);
            for (found, expected) in perceptron.gradients(&images).iter().zip(&expected) {
                assert_close(&what, found, expected, tolerance);
            }
            let outputs = values(module.forward(&batch, &mut Tape::off()));
            for (row, predicted) in outputs.chunks(10).zip(&predictions) {
                assert!(row.iter().all(|z| *z <= row[*predicted]), "{what}");
            }
            // And the captures' gradients, averaged.
            let captured = gradients(&module, &batch, Target::Loss).expect("the model is well-formed");
            for (found, expected) in captured.blocks.iter().zip(&expected) {
                assert_close(&what, &values(found.clone().mean_dim(0)), expected, tolerance);
            }
        }
    }
}

/// Full-batch training by Burn's gradients, the update written out.
fn trained_by_burn(start: &Perceptron, images: &Images, recipe: &Recipe, device: &Device) -> Vec<Vec<f64>> {
    let batch = images.batches(images.len(), device, DType::F64).remove(0);
    let mut model = start.clone();
    let size = |p: &Perceptron| p.layers.iter().map(|l| vec![0.0; l.weights.len()]).collect::<Vec<_>>();
    let (mut first, mut second) = (size(start), size(start));
    let (rate, decay) = (recipe.learning_rate, recipe.weight_decay);
    for step in 1..=recipe.steps(images.len()) {
        let (_, gradient) = backward(&model.module(device, DType::F64).train(), &batch);
        for (l, layer) in model.layers.iter_mut().enumerate() {
            for (i, w) in layer.weights.iter_mut().enumerate() {
                let (g, m, s) = (gradient[l][i], &mut first[l][i], &mut second[l][i]);
                match recipe.optimizer {
                    Optimizer::Sgd { momentum } => {
                        *m = momentum * *m + (g + decay * *w);
                        *w -= rate * *m;
                    }
                    Optimizer::AdamW => {
                        *w -= rate * decay * *w;
                        *m = 0.9 * *m + 0.1 * g;
                        *s = 0.999 * *s + 0.001 * g.powi(2);
                        let (m, s) = (*m / (1.0 - 0.9_f64.powi(step as i32)), *s / (1.0 - 0.999_f64.powi(step as i32)));
                        *w -= rate * m / (s.sqrt() + 1e-8);
                    }
                }
            }
        }
    }
    model.layers.into_iter().map(|layer| layer.weights).collect()
}

#[test]
fn training_is_what_burns_gradients_would_do() {
    let (_, device) = devices().remove(0);
    if !device.supports_dtype(DType::F64) {
        return;
    }
    let (images, _) = split(30, 5);
    for optimizer in [Optimizer::Sgd { momentum: 0.9 }, Optimizer::AdamW] {
        let learning_rate = if optimizer == Optimizer::AdamW { 0.01 } else { 0.1 };
        let length = Length::Steps(25);
        let recipe = Recipe { optimizer, learning_rate, weight_decay: 0.01, batch_size: 30, length };
        let all: Vec<usize> = (0..30).collect();
        let found = Perceptron::trained(&images, &all, &[16, 12], &recipe, 6).expect("the recipe is sound");
        let expected = trained_by_burn(&Perceptron::new(&[16, 12], 6), &images, &recipe, &device);
        for (layer, expected) in found.layers.iter().zip(&expected) {
            // 25 steps amplify differences of rounding a little.
            assert_close(&format!("{optimizer:?}"), &layer.weights, expected, 1e-9);
        }
    }
}

#[test]
fn a_training_depends_on_subset_and_seed_alone() {
    let recipe = Recipe { length: Length::Epochs(3), ..Recipe::default() };
    let task = task(100, 10, recipe);
    let subset: Vec<usize> = (0..50).collect();
    let run = |subset: &[usize], seed: u64| task.outcome(subset, seed).expect("the recipe is sound");
    assert_eq!(run(&subset, 1), run(&subset, 1));
    assert_ne!(run(&subset, 1).losses, run(&subset, 2).losses);
    assert_ne!(run(&subset, 1).losses, run(&subset[1..], 1).losses);
    // Images outside the subset do not matter: the same with the subset's images alone.
    let alone = DigitsTask { train: task.train.of(&subset), ..task.clone() };
    assert_eq!(run(&subset, 1), alone.outcome(&subset, 1).expect("the recipe is sound"));
    assert_eq!((task.steps(50), task.steps(100)), (Some(6), Some(12)));

    let others = [
        alone.fingerprint(),
        DigitsTask { hidden: vec![17], ..task.clone() }.fingerprint(),
        DigitsTask { recipe: Recipe { learning_rate: 0.051, ..recipe }, ..task.clone() }.fingerprint(),
        DigitsTask { recipe: Recipe { length: Length::Steps(3), ..recipe }, ..task.clone() }.fingerprint(),
        DigitsTask { queries: task.train.clone(), ..task.clone() }.fingerprint(),
    ];
    assert!(others.iter().all(|other| *other != task.fingerprint()), "{others:?}");
    for recipe in [Recipe { learning_rate: 0.0, ..recipe }, Recipe { batch_size: 0, ..recipe }] {
        let error = DigitsTask { recipe, ..task.clone() }.outcome(&subset, 0).expect_err("out of its range");
        assert!(matches!(error, TruthError::Setting { .. }), "{error}");
    }
    let wild = DigitsTask { recipe: Recipe { learning_rate: 1e300, ..recipe }, ..task.clone() };
    let error = wild.outcome(&subset, 0).expect_err("it diverges");
    assert!(matches!(error, TruthError::Retrain { samples: 50, seed: 0, .. }), "{error}");
}

#[test]
fn scores_of_a_trained_network_foretell_its_retraining() {
    let task = task(150, 20, Recipe { length: Length::Epochs(15), ..Recipe::default() });
    let mut bank = Bank::memory(&task);
    let config = LdsConfig { subsets: 40, seeds: vec![0, 1, 2], ..LdsConfig::default() };
    let truth = LdsTruth::retrain(&task, &config, &mut bank, &|_, _| {}).expect("the recipe is sound");
    let model = task.trained(&(0..150).collect::<Vec<_>>(), 0).expect("the recipe is sound");
    let random = truth.lds(&random_scores(20, 150, 0)).expect("losses vary").mean;
    assert!(random.mean.abs() < 0.15, "{random}");
    for (name, device) in devices() {
        let module = model.module(&device, DType::F32);
        let (train, query) =
            (task.train.batches(64, &device, DType::F32), task.queries.batches(64, &device, DType::F32));
        let (train, query) = (TaskSource::train(&module, &train), TaskSource::query(&module, &query));
        let options = Options::named("exact").expect("it is registered");
        let scores =
            attribute(&train, &query, CurvatureFrom::Training, &options).expect("the model is well-formed").scores;
        let found = truth.lds(&scores.rows).expect("losses vary").mean;
        assert!(
            found.low.is_some_and(|low| low > 0.1) && random.high.is_some_and(|high| found.mean > high),
            "{name}: {found}, by chance {random}"
        );
    }
}

#[test]
fn proximal_responses_of_a_network_are_those_of_its_gauss_newton_matrix() {
    let recipe = Recipe { length: Length::Epochs(40), ..Recipe::default() };
    let task = DigitsTask { hidden: vec![6], ..task(60, 8, recipe) };
    let (_, device) = devices().remove(0);
    let dtype = if device.supports_dtype(DType::F64) { DType::F64 } else { DType::F32 };
    let module = task.trained(&(0..60).collect::<Vec<_>>(), 0).expect("the recipe is sound").module(&device, dtype);
    let (batches, query) = (task.train.batches(30, &device, dtype), task.queries.batches(8, &device, dtype));
    let samples: Vec<usize> = (27..33).collect();
    let lambda = 0.03;
    // A little of the weight: the response is then of first order, and a network's outputs nearly linear.
    let proximal = Proximal { weight: 0.05, tolerance: 1e-4, ..Proximal::new(lambda) };
    let truth = proximal.responses(&module, &batches, &query, &samples).expect("the model is well-formed");
    // A minimum on a kink of ReLU has a gradient on both sides.
    assert!(truth.residuals.iter().all(|&r| r < 1e-2), "{:?}", truth.residuals);
    assert!(truth.residuals.iter().filter(|&&r| r <= 1e-4).count() >= 4, "{:?}", truth.residuals);
    let (train, queries) = (TaskSource::train(&module, &batches), TaskSource::query(&module, &query));
    let correlation = |name: &str, estimate: Estimate| {
        let curvature = TaskSource::curvature(&module, &batches, estimate);
        let named = Options::named(name).expect("it is registered");
        let options = Options { damping: Damping::Absolute(lambda), merged: name == "exact", ..named };
        let scores = attribute(&train, &queries, CurvatureFrom::Source(&curvature), &options)
            .expect("the model is well-formed")
            .scores;
        let pairs = scores.rows.iter().zip(&truth.effects);
        let found: Vec<f64> = pairs.map(|(s, e)| pearson(&s[27..33], e).expect("they vary")).collect();
        found.iter().sum::<f64>() / found.len() as f64
    };
    let gauss_newton = correlation("exact", Estimate::GaussNewton { sketch: None });
    let dot = correlation("identity", Estimate::Empirical);
    assert!(gauss_newton > 0.98 && gauss_newton > dot, "Gauss-Newton {gauss_newton}, dot product {dot}");
}
