use super::{Images, Perceptron, Recipe};
use crate::checksum::fnv1a;
use crate::{Outcome, Retrain, TruthError};

/// A perceptron on images of digits that can be trained on any subset of them.
#[derive(Clone, Debug, PartialEq)]
pub struct DigitsTask {
    /// Training images.
    pub train: Images,
    /// Queries.
    pub queries: Images,
    /// Units of the hidden layers.
    pub hidden: Vec<usize>,
    /// How it is trained.
    pub recipe: Recipe,
}

impl DigitsTask {
    /// Trains a model on a subset of the training images.
    ///
    /// # Errors
    ///
    /// As [`Perceptron::trained`].
    pub fn trained(&self, subset: &[usize], seed: u64) -> Result<Perceptron, TruthError> {
        Perceptron::trained(&self.train, subset, &self.hidden, &self.recipe, seed)
    }
}

impl Retrain for DigitsTask {
    fn samples(&self) -> usize {
        self.train.len()
    }

    fn queries(&self) -> usize {
        self.queries.len()
    }

    fn fingerprint(&self) -> String {
        let sets = [&self.train, &self.queries].map(checksum);
        format!("digits {:016x} {:016x}, hidden {:?}, {}", sets[0], sets[1], self.hidden, self.recipe)
    }

    fn query_losses(&self, subset: &[usize], seed: u64) -> Result<Vec<f64>, TruthError> {
        Ok(self.outcome(subset, seed)?.losses)
    }

    fn outcome(&self, subset: &[usize], seed: u64) -> Result<Outcome, TruthError> {
        let (losses, predictions) = self.trained(subset, seed)?.losses(&self.queries);
        Ok(Outcome { losses, predictions: Some(predictions) })
    }

    fn steps(&self, samples: usize) -> Option<usize> {
        Some(self.recipe.steps(samples))
    }
}

fn checksum(images: &Images) -> u64 {
    let pixels = images.pixels.iter().map(|p| p.to_bits());
    fnv1a(pixels.chain(images.labels.iter().map(|&label| label as u64)))
}
