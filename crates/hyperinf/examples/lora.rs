//! A LoRA adapter on a layer of your own model: trained, then attributed to.
//! `cargo run --release -p hyperinf --example lora`.
//!
//! Only the two factors are trained, and only they are blocks of the attribution: `rank × (inputs + outputs)` numbers
//! per sample in place of `inputs × outputs`.

use std::error::Error;

use hyperinf::burn;
use hyperinf::burn::module::Module;
use hyperinf::burn::nn::LinearConfig;
use hyperinf::burn::tensor::{Device, Distribution, Int, Tensor};
use hyperinf::models::{TrainConfig, train};
use hyperinf::prelude::*;

/// Inputs and targets.
type Batch = (Tensor<2>, Tensor<2>);

/// A frozen layer with an adapter.
#[derive(Module, Debug)]
pub struct Adapted {
    layer: LoraLinear,
}

impl Task for Adapted {
    type Batch = Batch;

    fn forward(&self, (x, _): &Batch, tape: &mut Tape) -> Tensor<2> {
        self.layer.forward(x.clone(), tape)
    }

    fn loss(&self, outputs: Tensor<2>, (_, y): &Batch) -> Tensor<1> {
        (outputs - y.clone()).square().sum_dim(1).squeeze_dim(1)
    }
}

/// Trains an adapter, and scores its 32 training samples for the mean of 4 queries.
pub fn score(device: &Device) -> Result<Attribution, Box<dyn Error>> {
    device.seed(1);
    let base = LinearConfig::new(16, 8).init(device);
    let config = LoraConfig { rank: 2, ..LoraConfig::default() };
    let model = Adapted { layer: LoraLinear::new(base, "layer", &config, 0)? };

    let random = |n, d| Tensor::<2>::random([n, d], Distribution::Normal(0.0, 1.0), device);
    let (x, y) = (random(32, 16), random(32, 8));
    let schedule = TrainConfig { learning_rate: 0.01, epochs: 5, batch_size: 8, ..TrainConfig::default() };
    let rows_of = |rows: &[usize], model: &Adapted| -> Batch {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let rows = Tensor::<1, Int>::from_data(rows.as_slice(), device);
        let device = model.layer.devices().remove(0);
        (x.clone().select(0, rows.clone()).to_device(&device), y.clone().select(0, rows).to_device(&device))
    };
    let losses = |model: &Adapted, rows: &[usize]| {
        let batch = rows_of(rows, model);
        Ok(model.loss(model.forward(&batch, &mut Tape::off()), &batch))
    };
    let model = train(model, &[1; 32], &schedule, losses, |_| {})?;

    let (train, query) = ([(x, y)], [(random(4, 16), random(4, 8))]);
    let (train, query) = (TaskSource::train(&model, &train), TaskSource::query(&model, &query));
    let options = Options { query: QueryMode::Mean, ..Options::named("datainf")? };
    Ok(attribute(&train, &query, CurvatureFrom::Training, &options)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let found = score(&device("cpu")?)?;
    for report in &found.blocks {
        println!("block {}: {} × {}", report.block.name, report.block.rows, report.block.cols);
    }
    println!("most harmful: {:?}", detect(&found.scores.rows[0], Amount::Count(3))?);
    Ok(())
}
