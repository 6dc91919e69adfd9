//! Attribution for a network with a convolution: `cargo run --release -p hyperinf --example convolution`.
//!
//! A convolution is one line on the tape, as a linear layer is. Its block has `channels × kernel` rows (and one for the
//! bias) and one column per output channel.

use std::error::Error;

use hyperinf::burn::nn::conv::{Conv2d, Conv2dConfig};
use hyperinf::burn::nn::{Linear, LinearConfig};
use hyperinf::burn::tensor::activation::{log_softmax, relu};
use hyperinf::burn::tensor::{Device, Distribution, Int, Tensor};
use hyperinf::prelude::*;

/// Grey images and the class of each.
type Batch = (Tensor<4>, Tensor<2, Int>);

/// A convolution, the mean over all positions, and a linear layer.
struct Network {
    conv: Conv2d,
    output: Linear,
}

impl Task for Network {
    type Batch = Batch;

    fn forward(&self, (images, _): &Batch, tape: &mut Tape) -> Tensor<2> {
        let maps = relu(tape.conv2d("conv", &self.conv, images.clone()));
        let features: Tensor<2> = maps.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2);
        tape.linear("output", &self.output, features)
    }

    fn loss(&self, outputs: Tensor<2>, (_, classes): &Batch) -> Tensor<1> {
        -log_softmax(outputs, 1).gather(1, classes.clone()).squeeze_dim(1)
    }
}

/// The name, rows and columns of a block.
type Sides = (String, usize, usize);

/// The scores of 24 random images for 2, and the sides of each block.
pub fn score(device: &Device) -> Result<(Attribution, Vec<Sides>), Box<dyn Error>> {
    let network =
        Network { conv: Conv2dConfig::new([1, 4], [3, 3]).init(device), output: LinearConfig::new(4, 3).init(device) };
    let batch = |n: i64| {
        let classes: Vec<i64> = (0..n).map(|i| i % 3).collect();
        let classes = Tensor::<1, Int>::from_data(classes.as_slice(), device).unsqueeze_dim(1);
        (Tensor::<4>::random([n as usize, 1, 8, 8], Distribution::Normal(0.0, 1.0), device), classes)
    };
    let (train, query) = ([batch(16), batch(8)], [batch(2)]);
    let (train, query) = (TaskSource::train(&network, &train), TaskSource::query(&network, &query));
    let found = attribute(&train, &query, CurvatureFrom::Training, &Options::default())?;
    let sides = found.blocks.iter().map(|report| &report.block);
    let sides = sides.map(|block| (block.name.clone(), block.rows, block.cols)).collect();
    Ok((found, sides))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (found, blocks) = score(&device("cpu")?)?;
    for (name, rows, cols) in blocks {
        println!("block {name}: {rows} × {cols}");
    }
    println!("most helpful for image 0: {:?}", top_k(&found.scores.rows[0], 3)?);
    Ok(())
}
