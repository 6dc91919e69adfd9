//! A task with its batches is attributed as its gradients are.

use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Tensor};
use hyperinf::gradients::{Gradients, Tape, Target, Task, gradients};
use hyperinf::scoring::{Attribution, CurvatureFrom, Options, ScoreError, Set, TaskSource, attribute, baselines};
use hyperinf_tests::compare::{assert_close, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

fn options(name: &str) -> Options {
    Options::named(name).expect("a method")
}

fn run(train: &Gradients, query: &Gradients, options: &Options) -> Attribution {
    attribute(train, query, CurvatureFrom::Training, options).unwrap_or_else(|e| panic!("{e}"))
}

fn flat(found: &Attribution) -> Vec<f64> {
    found.scores.rows.concat()
}

/// A linear model with squared error, whose queries measure the output itself.
struct Model {
    layer: Linear,
}

impl Task for Model {
    type Batch = (Tensor<2>, Tensor<2>);

    fn forward(&self, (x, _): &Self::Batch, tape: &mut Tape) -> Tensor<2> {
        tape.linear("layer", &self.layer, x.clone())
    }

    fn loss(&self, outputs: Tensor<2>, (_, y): &Self::Batch) -> Tensor<1> {
        (outputs - y.clone()).square().sum_dim(1).squeeze_dim(1)
    }

    fn measure(&self, outputs: Tensor<2>, _: &Self::Batch) -> Tensor<1> {
        outputs.sum_dim(1).squeeze_dim(1)
    }
}

#[test]
fn a_task_is_attributed_like_its_gradients() {
    for (_, device) in devices() {
        let model = Model { layer: LinearConfig::new(4, 2).init(&device) };
        let batch = |n, seed| {
            let part = |d, seed| tensor(&Matrix::noise(n, d, seed), &device, DType::F32);
            (part(4, seed), part(2, seed + 50))
        };
        let (train, query) = ([batch(5, 1), batch(3, 2)], [batch(2, 3)]);
        let sources = (TaskSource::train(&model, &train), TaskSource::query(&model, &query));
        let taken = |target, batches: &[(Tensor<2>, Tensor<2>)]| {
            let sets = batches.iter().map(|b| gradients(&model, b, target).expect("a good model"));
            Gradients::concat(sets.collect()).expect("one model")
        };
        let (j, v) = (taken(Target::Loss, &train), taken(Target::Measure, &query));
        for name in ["identity", "datainf", "exact", "hyperinf"] {
            let found = attribute(&sources.0, &sources.1, CurvatureFrom::Training, &options(name)).expect("good data");
            assert_close(name, &flat(&found), &flat(&run(&j, &v, &options(name))), 1e-5);
        }
        // A lazy iterator serves as well as a slice.
        let lazy = TaskSource::train(&model, (1..3).map(|seed| batch(if seed == 1 { 5 } else { 3 }, seed)));
        let found = attribute(&lazy, &sources.1, CurvatureFrom::Training, &options("exact")).expect("good data");
        assert_close("lazy", &flat(&found), &flat(&run(&j, &v, &options("exact"))), 1e-5);

        let found = baselines(&model, &train).expect("good data");
        let losses = train.iter().flat_map(|b| values(model.loss(model.layer.forward(b.0.clone()), b)));
        assert_close("losses", &found.losses, &losses.collect::<Vec<_>>(), 1e-5);
        let norms: Vec<f64> = j.squared_norms().expect("finite").into_iter().map(f64::sqrt).collect();
        assert_close("norms", &found.gradient_norms, &norms, 1e-5);
        let mut bad = train.clone();
        bad[1].1 = bad[1].1.clone().slice_fill([1..2, 0..1], f32::NAN);
        let error = baselines(&model, &bad).err();
        assert!(matches!(error, Some(ScoreError::NonFinite { set: Set::Train, sample: 6, .. })), "{error:?}");
    }
}
