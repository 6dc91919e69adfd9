//! Per-sample gradients of a model in memory, in the order of the samples.

use hyperinf::burn::tensor::{Int, Tensor, TensorData};
use hyperinf::gradients::{Gradients, Target, capture};
use hyperinf::linalg::host;
use hyperinf::models::SampleModel;

use crate::Failure;

/// The gradients and losses of samples.
pub struct SampleGradients {
    pub gradients: Gradients,
    pub losses: Vec<f64>,
}

/// One pass over the samples, sorted by length, `batch` at a time.
pub fn sample_gradients<M: SampleModel>(
    model: &M,
    samples: &[M::Sample],
    batch: usize,
) -> Result<SampleGradients, Failure> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&row| M::length(&samples[row]));
    let (mut parts, mut sorted_losses) = (Vec::new(), Vec::new());
    for rows in order.chunks(batch) {
        let chosen: Vec<&M::Sample> = rows.iter().map(|&row| &samples[row]).collect();
        let captures = capture(model, &model.collate(&chosen)?, Target::Loss)?;
        sorted_losses.extend(host(captures.values)?);
        let layout: Vec<_> = captures.blocks.iter().map(|c| c.block.clone()).collect();
        parts.push(Gradients::new(layout, captures.blocks.iter().map(|c| c.gradients()).collect())?);
    }
    let mut losses = vec![0.0; samples.len()];
    let mut place = vec![0_i64; samples.len()];
    for (at, &row) in order.iter().enumerate() {
        losses[row] = sorted_losses[at];
        place[row] = at as i64;
    }
    let mut gradients = Gradients::concat(parts)?;
    for block in &mut gradients.blocks {
        let place = TensorData::new(place.clone(), [samples.len()]);
        *block = block.clone().select(0, Tensor::<1, Int>::from_data(place, &block.device()));
    }
    Ok(SampleGradients { gradients, losses })
}
