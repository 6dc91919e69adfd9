//! A linear head on hidden states, trained and differentiated here.

use hyperinf::burn::tensor::{DType, Device};
use hyperinf::gradients::{Block, Gradients, Tape};
use hyperinf::linalg::{host, tensor_from_host};
use hyperinf::models::{EncoderClassifier, Sample, SampleModel};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};

use crate::Failure;
use crate::detection::BATCH;
use crate::judge::mean_and_spread;

/// Samples of a step.
pub(super) const STEP: usize = 16;

/// Two rows of weights, one per class.
pub(super) type Head = [Vec<f64>; 2];

/// Rows as the head sees them: hidden states, the last number 1, and labels.
#[derive(Clone, Default)]
pub(super) struct Features {
    pub(super) states: Vec<Vec<f64>>,
    pub(super) labels: Vec<usize>,
}

impl Features {
    /// The mean hidden states of a model that is not tuned.
    pub(super) fn of(model: &EncoderClassifier, samples: &[Sample]) -> Result<Self, Failure> {
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by_key(|&row| samples[row].tokens.len());
        let mut states = vec![Vec::new(); samples.len()];
        for rows in order.chunks(BATCH) {
            let batch: Vec<&Sample> = rows.iter().map(|&row| &samples[row]).collect();
            let found = model.encoder.pooled(&model.collate(&batch)?.tokens, &mut Tape::off());
            let width = found.dims()[1];
            for (&row, state) in rows.iter().zip(host(found)?.chunks(width)) {
                states[row] = state.iter().copied().chain([1.0]).collect();
            }
        }
        Ok(Self { states, labels: samples.iter().map(|sample| sample.label).collect() })
    }

    /// Brings every state but the constant one to mean 0 and standard deviation 1, by these rows or a given scale.
    pub(super) fn standardise(&mut self, scale: Option<&[(f64, f64)]>) -> Vec<(f64, f64)> {
        let width = self.states[0].len() - 1;
        let of = |place: usize| mean_and_spread(&self.states.iter().map(|state| state[place]).collect::<Vec<_>>());
        let scale: Vec<(f64, f64)> = scale.map_or_else(|| (0..width).map(of).collect(), <[_]>::to_vec);
        for state in &mut self.states {
            for (value, (mean, spread)) in state.iter_mut().zip(&scale) {
                *value = (*value - mean) / spread.max(1e-6);
            }
        }
        scale
    }

    /// The probabilities of both classes.
    pub(super) fn guess(&self, row: usize, head: &Head) -> [f64; 2] {
        let product = |weights: &Vec<f64>| weights.iter().zip(&self.states[row]).map(|(a, b)| a * b).sum::<f64>();
        let one = 1.0 / (1.0 + (product(&head[0]) - product(&head[1])).exp());
        [1.0 - one, one]
    }

    /// `p − y` of each class: the gradient of the loss by the outputs.
    fn rest(&self, row: usize, head: &Head) -> [f64; 2] {
        let mut rest = self.guess(row, head);
        rest[self.labels[row]] -= 1.0;
        rest
    }

    /// A head from zero by AdamW on rows in turn, in an order by the seed, with a rate that falls to 0.
    pub(super) fn train(&self, rows: &[usize], steps: usize, learning_rate: f64, seed: u64) -> Head {
        let width = self.states[0].len();
        let mut order: Vec<usize> = rows.iter().copied().cycle().take(steps * STEP).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(4)));
        let mut head: Head = [vec![0.0; width], vec![0.0; width]];
        let mut moments = vec![[0.0_f64; 2]; 2 * width];
        for (step, batch) in order.chunks(STEP).enumerate() {
            let rests: Vec<[f64; 2]> = batch.iter().map(|&row| self.rest(row, &head)).collect();
            let rate = learning_rate * (1.0 - step as f64 / steps as f64);
            let bias = [0.9_f64, 0.999].map(|decay| 1.0 - decay.powi(step as i32 + 1));
            for (place, [first, second]) in moments.iter_mut().enumerate() {
                let (class, column) = (place / width, place % width);
                let parts = batch.iter().zip(&rests).map(|(&row, rest)| self.states[row][column] * rest[class]);
                let gradient = parts.sum::<f64>() / batch.len() as f64;
                *first = 0.9 * *first + 0.1 * gradient;
                *second = 0.999 * *second + 0.001 * gradient * gradient;
                let towards = *first / bias[0] / ((*second / bias[1]).sqrt() + 1e-8);
                let weight = &mut head[class][column];
                *weight -= rate * (towards + 0.01 * *weight);
            }
        }
        head
    }

    /// The gradient of each row's loss by the head, `[n, width, 2]`.
    pub(super) fn gradients(&self, head: &Head, rows: &[usize], device: &Device) -> Result<Gradients, Failure> {
        let width = self.states[0].len();
        let of = |&row: &usize| {
            let rest = self.rest(row, head);
            self.states[row].iter().flat_map(move |value| rest.map(|rest| value * rest)).collect::<Vec<f64>>()
        };
        let values: Vec<f64> = rows.iter().flat_map(of).collect();
        let block =
            tensor_from_host(values, [rows.len(), width * 2], device, DType::F32).reshape([rows.len(), width, 2]);
        Ok(Gradients::new(vec![Block::new("head", width, 2)], vec![block])?)
    }

    pub(super) fn accuracy(&self, head: &Head) -> f64 {
        let right = |&row: &usize| self.guess(row, head)[self.labels[row]] > 0.5;
        (0..self.labels.len()).filter(right).count() as f64 / self.labels.len() as f64
    }
}

/// The sum of the cosines of each row's states with those of the queries.
pub(super) fn cosines(rows: &Features, queries: &Features) -> Vec<f64> {
    let unit = |features: &Features| -> Vec<Vec<f64>> {
        let norm = |state: &[f64]| state.iter().map(|value| value * value).sum::<f64>().sqrt();
        features.states.iter().map(|state| state.iter().map(|value| value / norm(state)).collect()).collect()
    };
    let width = rows.states[0].len();
    let sum = sum_of(unit(queries).into_iter(), width);
    unit(rows).iter().map(|row| row.iter().zip(&sum).map(|(a, b)| a * b).sum()).collect()
}

/// The sum of several rows of numbers.
pub(super) fn sum_of(rows: impl Iterator<Item = Vec<f64>>, n: usize) -> Vec<f64> {
    rows.fold(vec![0.0; n], |sum, row| sum.iter().zip(row).map(|(a, b)| a + b).collect())
}
