//! Which answers a model gives.

use hyperinf::gradients::{Tape, Task};
use hyperinf::models::{SampleModel, VisionLanguage};

use crate::Failure;

/// The number of samples whose answer's tokens are the likeliest, one by one.
pub fn answered(model: &VisionLanguage, samples: &[<VisionLanguage as SampleModel>::Sample]) -> Result<usize, Failure> {
    let batch = model.collate(&samples.iter().collect::<Vec<_>>())?;
    let outputs = model.forward(&batch, &mut Tape::off());
    let likeliest = outputs.argmax(1).flatten::<1>(0, 1).into_data();
    let likeliest: Vec<i64> = likeliest.iter::<i64>().collect();
    let targets = batch.text.targets.clone().try_into_data().map_err(|e| e.to_string())?;
    let mut equal = likeliest.into_iter().zip(targets.iter::<i64>()).map(|(found, right)| found == right);
    // All of a sample's tokens are taken, also after a wrong one.
    let whole = |count: usize| equal.by_ref().take(count).filter(|&equal| equal).count() == count;
    Ok(batch.text.counts.iter().copied().map(whole).filter(|&right| right).count())
}
