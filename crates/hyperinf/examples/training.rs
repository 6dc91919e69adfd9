//! A training loop of your own, then the samples that it should not have had:
//! `cargo run --release -p hyperinf --example training`.
//!
//! The classifier is a Burn module with a forward pass over a tape; switched off, the tape costs nothing, so training
//! and attribution share it.

use std::error::Error;

use hyperinf::burn;
use hyperinf::burn::module::Module;
use hyperinf::burn::nn::{Linear, LinearConfig};
use hyperinf::burn::optim::{AdamConfig, GradientsParams};
use hyperinf::burn::tensor::activation::{log_softmax, relu};
use hyperinf::burn::tensor::{Device, Distribution, Int, Tensor};
use hyperinf::prelude::*;

/// Points in the plane and the class of each.
type Batch = (Tensor<2>, Tensor<2, Int>);

/// Two layers.
#[derive(Module, Debug)]
pub struct Classifier {
    hidden: Linear,
    output: Linear,
}

impl Task for Classifier {
    type Batch = Batch;

    fn forward(&self, (points, _): &Batch, tape: &mut Tape) -> Tensor<2> {
        let hidden = relu(tape.linear("hidden", &self.hidden, points.clone()));
        tape.linear("output", &self.output, hidden)
    }

    fn loss(&self, outputs: Tensor<2>, (_, classes): &Batch) -> Tensor<1> {
        -log_softmax(outputs, 1).gather(1, classes.clone()).squeeze_dim(1)
    }
}

/// Two clouds of 40 points, of which the first two of each have the other's class.
fn data(device: &Device) -> Batch {
    let cloud = |x: f64| Tensor::<2>::random([40, 2], Distribution::Normal(x, 0.6), device);
    let class = |i: usize| i64::from((i < 40) == (i % 40 < 2));
    let classes: Vec<i64> = (0..80).map(class).collect();
    (
        Tensor::cat(vec![cloud(-1.5), cloud(1.5)], 0),
        Tensor::<1, Int>::from_data(classes.as_slice(), device).unsqueeze_dim(1),
    )
}

/// Trains on all points and returns the four whose scores for clean points are lowest.
pub fn wrong_labels(device: &Device) -> Result<Vec<usize>, Box<dyn Error>> {
    device.seed(1);
    let (points, classes) = data(device);
    let layer = |inputs, outputs| LinearConfig::new(inputs, outputs).init(&device.clone().autodiff());
    let mut model = Classifier { hidden: layer(2, 8), output: layer(8, 2) };
    let mut optimizer = AdamConfig::new().init();
    let training = {
        let device = device.clone().autodiff();
        (points.clone().to_device(&device), classes.clone().to_device(&device))
    };
    for _ in 0..60 {
        let outputs = model.forward(&training, &mut Tape::off());
        let loss = model.loss(outputs, &training).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(0.05, model, gradients);
    }
    let model = model.valid();

    // Points whose labels are known to be right: every fourth of the others.
    let trusted: Vec<i64> = (0..80).filter(|i| i % 40 >= 2 && i % 4 == 0).collect();
    let trusted = Tensor::<1, Int>::from_data(trusted.as_slice(), device);
    let query = [(points.clone().select(0, trusted.clone()), classes.clone().select(0, trusted))];
    let train = [(points, classes)];
    let (train, query) = (TaskSource::train(&model, &train), TaskSource::query(&model, &query));
    let options = Options { query: QueryMode::Mean, ..Options::default() };
    let found = attribute(&train, &query, CurvatureFrom::Training, &options)?;
    Ok(detect(&found.scores.rows[0], Amount::Count(4))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("samples 0, 1, 40 and 41 are mislabelled; the most suspicious are {:?}", wrong_labels(&device("cpu")?)?);
    Ok(())
}
