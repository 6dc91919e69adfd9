use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::{CLASSES, Images, Optimizer, PIXELS, Recipe};
use crate::TruthError;

/// Linear layers with ReLU between them, in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Perceptron {
    /// The layers, first to last.
    pub layers: Vec<Layer>,
}

/// A linear layer with its bias as the last row.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Inputs, without the bias.
    pub inputs: usize,
    /// Outputs.
    pub outputs: usize,
    /// `[inputs + 1, outputs]`, row by row.
    pub weights: Vec<f64>,
}

/// The inputs of each layer for a batch (the last value of a sample is 1, for the bias) and the outputs of the last
/// layer, sample by sample.
struct Forward {
    inputs: Vec<Vec<f64>>,
    outputs: Vec<f64>,
}

impl Perceptron {
    /// A perceptron with these hidden layers, weights and biases uniform in `±1/√inputs`.
    pub fn new(hidden: &[usize], seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self::drawn(hidden, &mut rng)
    }

    fn drawn(hidden: &[usize], rng: &mut StdRng) -> Self {
        let sizes: Vec<usize> = [PIXELS].iter().chain(hidden).chain(&[CLASSES]).copied().collect();
        let mut layer = |inputs: usize, outputs: usize| {
            let bound = 1.0 / (inputs as f64).sqrt();
            let weights = (0..(inputs + 1) * outputs).map(|_| rng.random_range(-bound..bound)).collect();
            Layer { inputs, outputs, weights }
        };
        Self { layers: sizes.windows(2).map(|pair| layer(pair[0], pair[1])).collect() }
    }

    /// Trains a new perceptron on a subset of the images; the seed sets its initial weights and the order of the
    /// samples.
    ///
    /// The batches of an epoch are consecutive pieces of a random order of the subset.
    ///
    /// # Errors
    ///
    /// If the recipe is out of range, the subset is empty, or a trained weight is not finite.
    pub fn trained(
        images: &Images,
        subset: &[usize],
        hidden: &[usize],
        recipe: &Recipe,
        seed: u64,
    ) -> Result<Self, TruthError> {
        recipe.validate()?;
        if subset.is_empty() {
            let expected = "at least one".into();
            return Err(TruthError::Setting { name: "samples to train on", expected, value: 0.0 });
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut model = Self::drawn(hidden, &mut rng);
        let mut order = subset.to_vec();
        let mut updates: Vec<Update> = model.layers.iter().map(|layer| Update::new(layer.weights.len())).collect();
        let mut place = order.len();
        for step in 0..recipe.steps(subset.len()) {
            if place >= order.len() {
                order.shuffle(&mut rng);
                place = 0;
            }
            let batch = &order[place..(place + recipe.batch_size).min(order.len())];
            place += batch.len();
            let gradients = model.gradients(&images.of(batch));
            for ((layer, gradient), update) in model.layers.iter_mut().zip(gradients).zip(&mut updates) {
                update.apply(&mut layer.weights, &gradient, recipe, step);
            }
        }
        if model.layers.iter().flat_map(|layer| &layer.weights).all(|w| w.is_finite()) {
            Ok(model)
        } else {
            let source = "the training diverged: take a smaller learning rate".into();
            Err(TruthError::Retrain { samples: subset.len(), seed, source })
        }
    }

    /// The gradient of the mean loss over the images, for each layer in the layout of its weights.
    pub fn gradients(&self, images: &Images) -> Vec<Vec<f64>> {
        let n = images.len();
        let Forward { inputs, mut outputs } = self.forward(images);
        for (row, &label) in outputs.chunks_mut(CLASSES).zip(&images.labels) {
            softmax(row);
            row[label] -= 1.0;
            row.iter_mut().for_each(|value| *value /= n as f64);
        }
        let mut delta = outputs;
        let mut gradients = Vec::with_capacity(self.layers.len());
        for (l, (layer, input)) in self.layers.iter().zip(&inputs).enumerate().rev() {
            let Layer { inputs: rows, outputs: cols, weights } = layer;
            let mut gradient = vec![0.0; (rows + 1) * cols];
            product(&mut gradient, (*cols, rows + 1), by_sample(&delta, *cols), by_sample(input, rows + 1).transpose());
            gradients.push(gradient);
            if l > 0 {
                let mut below = vec![0.0; n * (rows + 1)];
                let transposed = MatRef::from_column_major_slice(weights, *cols, rows + 1).transpose();
                product(&mut below, (rows + 1, n), transposed, by_sample(&delta, *cols));
                // No gradient flows below the bias, nor through a unit that ReLU cuts off.
                delta = Vec::with_capacity(n * rows);
                for (back, seen) in below.chunks(rows + 1).zip(input.chunks(rows + 1)) {
                    delta.extend(back[..*rows].iter().zip(seen).map(|(&b, &s)| if s > 0.0 { b } else { 0.0 }));
                }
            }
        }
        gradients.reverse();
        gradients
    }

    /// The loss of each image, in nats, and its predicted class.
    pub fn losses(&self, images: &Images) -> (Vec<f64>, Vec<usize>) {
        let outputs = self.forward(images).outputs;
        let judge = |(row, &label): (&[f64], &usize)| {
            let best = (0..CLASSES).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("there are ten classes");
            let sum: f64 = row.iter().map(|z| (z - row[best]).exp()).sum();
            (row[best] - row[label] + sum.ln(), best)
        };
        outputs.chunks(CLASSES).zip(&images.labels).map(judge).unzip()
    }

    fn forward(&self, images: &Images) -> Forward {
        let n = images.len();
        let mut values: Vec<f64> = images.pixels.clone();
        let mut inputs = Vec::with_capacity(self.layers.len());
        for (l, Layer { inputs: rows, outputs: cols, weights }) in self.layers.iter().enumerate() {
            let mut input = Vec::with_capacity(n * (rows + 1));
            for row in values.chunks(*rows) {
                input.extend(row.iter().map(|&z| if l > 0 { z.max(0.0) } else { z }));
                input.push(1.0);
            }
            values = vec![0.0; n * cols];
            let weights = MatRef::from_column_major_slice(weights, *cols, rows + 1);
            product(&mut values, (*cols, n), weights, by_sample(&input, rows + 1));
            inputs.push(input);
        }
        Forward { inputs, outputs: values }
    }
}

/// Rows one after another, as faer's columns: one column per sample.
fn by_sample(values: &[f64], width: usize) -> MatRef<'_, f64> {
    MatRef::from_column_major_slice(values, width, values.len() / width)
}

fn product(out: &mut [f64], (rows, cols): (usize, usize), left: MatRef<'_, f64>, right: MatRef<'_, f64>) {
    let out = MatMut::from_column_major_slice_mut(out, rows, cols);
    matmul(out, Accum::Replace, left, right, 1.0, Par::Seq);
}

fn softmax(row: &mut [f64]) {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|z| *z = (*z - largest).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|z| *z /= sum);
}

/// An optimiser's state for a layer.
struct Update {
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Update {
    fn new(size: usize) -> Self {
        Self { first: vec![0.0; size], second: vec![0.0; size] }
    }

    fn apply(&mut self, weights: &mut [f64], gradient: &[f64], recipe: &Recipe, step: usize) {
        let (rate, decay) = (recipe.learning_rate, recipe.weight_decay);
        match recipe.optimizer {
            Optimizer::Sgd { momentum } => {
                for ((w, g), m) in weights.iter_mut().zip(gradient).zip(&mut self.first) {
                    *m = momentum * *m + g + decay * *w;
                    *w -= rate * *m;
                }
            }
            Optimizer::AdamW => {
                let power = i32::try_from(step + 1).unwrap_or(i32::MAX);
                let (first, second) = (1.0 - 0.9_f64.powi(power), 1.0 - 0.999_f64.powi(power));
                let moments = self.first.iter_mut().zip(&mut self.second);
                for ((w, g), (m, s)) in weights.iter_mut().zip(gradient).zip(moments) {
                    *m = 0.9 * *m + 0.1 * g;
                    *s = 0.999 * *s + 0.001 * g * g;
                    *w -= rate * (*m / first / ((*s / second).sqrt() + 1e-8) + decay * *w);
                }
            }
        }
    }
}
