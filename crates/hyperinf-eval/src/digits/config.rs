use super::{DigitsTask, Recipe, digits};
use crate::TruthError;

/// The images and the perceptron that is trained on them.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `train` | 1000 | training images | ≥ 1; with the queries at most 1,797 |
/// | `queries` | 100 | query images, none of which is trained on | ≥ 1 |
/// | `data_seed` | 0 | seed that draws both | |
/// | `hidden` | 64, 64 | units of the hidden layers; none for softmax regression | ≥ 1 each |
/// | `recipe` | see [`Recipe`] | how it is trained | |
#[derive(Clone, Debug, PartialEq)]
pub struct DigitsConfig {
    /// The number of training images.
    pub train: usize,
    /// The number of query images.
    pub queries: usize,
    /// The seed that draws both.
    pub data_seed: u64,
    /// Units of the hidden layers.
    pub hidden: Vec<usize>,
    /// How the perceptron is trained.
    pub recipe: Recipe,
}

impl Default for DigitsConfig {
    fn default() -> Self {
        Self { train: 1000, queries: 100, data_seed: 0, hidden: vec![64, 64], recipe: Recipe::default() }
    }
}

impl DigitsConfig {
    /// Draws the images.
    ///
    /// # Errors
    ///
    /// If there are no training or query images, more than the set has, or the recipe is out of range.
    pub fn task(&self) -> Result<DigitsTask, TruthError> {
        self.recipe.validate()?;
        let (train, queries) = digits()?.split(self.train, self.queries, self.data_seed)?;
        Ok(DigitsTask { train, queries, hidden: self.hidden.clone(), recipe: self.recipe })
    }
}
