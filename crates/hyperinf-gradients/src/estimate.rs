use burn::tensor::activation::softmax;
use burn::tensor::{DType, Int, Tensor, TensorData};
use hyperinf_linalg::host;
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::random::{Purpose, generator, normal, sign};
use crate::{Capture, GradientError, Tape, Target, Task, capture};

/// The distribution that a task's outputs describe: its `−log p` is the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Outputs are logits of classes: `−log softmax(o)[y]`.
    Softmax,
    /// Outputs are means with unit variance: `½||o − y||²`. A loss without the ½ has weight 2.
    Gaussian,
}

/// The loss of a task as a likelihood of its outputs, which every [`Estimate`] but the empirical one needs.
///
/// The loss of a sample is the sum over its output rows of `weight · −log p(row)`.
#[derive(Clone, Debug)]
pub struct Likelihood {
    /// The distribution of every row.
    pub family: Family,
    /// The weight of each output row, `[m]`, not negative; 1 if absent.
    pub weights: Option<Tensor<1>>,
    /// The sample of each output row, `m` values; each sample of the batch occurs. Row `i` is sample `i` if absent.
    pub samples: Option<Vec<usize>>,
}

impl Likelihood {
    /// One row per sample, of weight 1.
    pub fn new(family: Family) -> Self {
        Self { family, weights: None, samples: None }
    }

    /// The largest number of rows of one sample.
    pub fn rows_per_sample(&self) -> usize {
        self.row_numbers().map_or(1, |numbers| numbers.into_iter().max().map_or(0, |last| last + 1))
    }

    /// The place of each row among the rows of its sample, from 0.
    fn row_numbers(&self) -> Option<Vec<usize>> {
        let samples = self.samples.as_ref()?;
        let mut seen = vec![0; samples.iter().max().map_or(0, |&last| last + 1)];
        let number = |&sample: &usize| {
            seen[sample] += 1;
            seen[sample] - 1
        };
        Some(samples.iter().map(number).collect())
    }

    /// `√w` of each of `m` rows.
    fn roots(&self, m: usize) -> Result<Vec<f64>, GradientError> {
        let Some(weights) = &self.weights else { return Ok(vec![1.0; m]) };
        let weights = host(weights.clone())?;
        if weights.len() != m {
            return Err(GradientError::OutputRows { what: "weights", found: weights.len(), rows: m });
        }
        match weights.iter().position(|w| !(*w >= 0.0 && w.is_finite())) {
            Some(row) => Err(GradientError::Weight { row, weight: weights[row] }),
            None => Ok(weights.into_iter().map(f64::sqrt).collect()),
        }
    }
}

/// The gradients that are propagated back from the outputs, and so the curvature that their outer products sum to.
///
/// `J` is the Jacobian of a row's outputs, `H = diag(p) − ppᵀ` (softmax) or `I` (Gaussian) the Hessian of its
/// `−log p` with respect to them, `w` its weight. [`Sampled`](Self::Sampled) and a [`Sketch`] converge to the exact
/// Gauss-Newton matrix `(1/n) Σ_rows w JᵀHJ`, the error falling as `1/√draws`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Estimate {
    /// The gradients of the losses themselves: the empirical Fisher.
    #[default]
    Empirical,
    /// Labels `ŷ` drawn from the model: `√w (p − e_ŷ)`, or `√w z` with `z ~ N(0, I)`: the true Fisher by Monte Carlo.
    /// One cotangent weighted by `p` would not do: its expectation is zero.
    Sampled {
        /// Seed of the labels.
        seed: u64,
        /// Backward passes per batch.
        draws: usize,
    },
    /// The generalised Gauss-Newton matrix, which is the true Fisher of these families (Martens 2020, *New Insights
    /// and Perspectives on the Natural Gradient Method*, section 9).
    GaussNewton {
        /// Exact if absent: one backward pass per output (class) and row number within a sample, sending back
        /// `√(w p_k)(e_k − p)`, or `√w e_k`.
        sketch: Option<Sketch>,
    },
}

impl Estimate {
    /// The seed of its draws, if it draws anything.
    pub fn seed(self) -> Option<u64> {
        match self {
            Self::Sampled { seed, .. } | Self::GaussNewton { sketch: Some(Sketch { seed, .. }) } => Some(seed),
            Self::Empirical | Self::GaussNewton { sketch: None } => None,
        }
    }
}

/// The Gauss-Newton matrix by few random cotangents, for large vocabularies: `√w (√p∘z − p⟨√p, z⟩)` with independent
/// signs `z`, or `√w z`, whose outer products have the expectation `wH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    /// Backward passes per batch.
    pub draws: usize,
    /// Seed of the signs.
    pub seed: u64,
}

/// Goes through the **pseudo-samples** of a batch: for each backward pass of the estimate one capture per block, in
/// which row `i` is sample `i`.
///
/// The *mean* of the outer products `g gᵀ` over all passes and samples is the batch's curvature, whatever the
/// estimate: what accumulates an empirical Fisher accumulates these. Over several batches the mean is the mean of
/// all samples if the batches have equal numbers of passes; only the exact Gauss-Newton matrix of samples with
/// several rows has others.
///
/// Randomness comes from the seed, `batch_index` and the pass alone, so that the same call gives the same
/// pseudo-samples. Each pass runs the model once, forward and backward.
///
/// # Errors
///
/// As [`capture`]; if the task has no likelihood, it does not fit the outputs, or there are no draws; and whatever
/// `visit` returns.
pub fn estimated<T: Task, E: From<GradientError>>(
    task: &T,
    batch: &T::Batch,
    batch_index: usize,
    estimate: Estimate,
    mut visit: impl FnMut(Vec<Capture>) -> Result<(), E>,
) -> Result<(), E> {
    let random = match estimate {
        Estimate::Empirical => return visit(capture(task, batch, Target::Loss)?.blocks),
        Estimate::Sampled { seed, draws } => Some((Draw::Label, seed, draws)),
        Estimate::GaussNewton { sketch: Some(Sketch { draws, seed }) } => Some((Draw::Signs, seed, draws)),
        Estimate::GaussNewton { sketch: None } => None,
    };
    let likelihood = task.likelihood(batch).ok_or(GradientError::NoLikelihood)?;
    let mut backward = |sent: &dyn Fn(&Rows<'_>) -> Tensor<2>| -> Result<usize, E> {
        let mut tape = Tape::recording();
        let outputs = task.forward(batch, &mut tape);
        let rows = Rows::new(&likelihood, outputs.clone().without_autodiff())?;
        let root = (outputs * sent(&rows)).sum();
        visit(tape.finish(root, rows.samples)?)?;
        Ok(rows.outputs.dims()[1])
    };

    if let Some((draw, seed, draws)) = random {
        if draws == 0 {
            return Err(GradientError::Empty { what: "draws of the estimate" }.into());
        }
        for pass in 0..draws {
            backward(&|rows| rows.drawn(draw, &mut generator(Purpose::Estimate, seed, batch_index, pass)))?;
        }
        return Ok(());
    }
    let row_numbers = likelihood.row_numbers();
    let mut classes = None;
    for number in 0..likelihood.rows_per_sample() {
        let mut class = 0;
        // The number of classes is known after the first pass.
        while classes.is_none_or(|classes| class < classes) {
            let found = backward(&|rows| rows.exact(class, number, row_numbers.as_deref()))?;
            classes = Some(found);
            class += 1;
        }
    }
    Ok(())
}

/// The random part of a row's cotangent.
#[derive(Clone, Copy)]
enum Draw {
    Label,
    Signs,
}

/// The outputs of a batch with their likelihood.
pub(crate) struct Rows<'a> {
    likelihood: &'a Likelihood,
    /// `[m, C]`.
    outputs: Tensor<2>,
    /// `√w`, `m` values.
    roots: Vec<f64>,
    /// `n`.
    pub(crate) samples: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(likelihood: &'a Likelihood, outputs: Tensor<2>) -> Result<Self, GradientError> {
        let [m, _] = outputs.dims();
        let roots = likelihood.roots(m)?;
        let samples = match &likelihood.samples {
            Some(samples) if samples.len() != m => {
                return Err(GradientError::OutputRows { what: "samples", found: samples.len(), rows: m });
            }
            Some(samples) => samples.iter().max().map_or(0, |&last| last + 1),
            None => m,
        };
        Ok(Self { likelihood, outputs, roots, samples })
    }

    /// `w H z` for rows `z`, `[m, C]`: `w (p∘z − p⟨p, z⟩)`, or `w z`.
    pub(crate) fn hessian_times(&self, z: Tensor<2>) -> Tensor<2> {
        let weights = self.column(self.roots.iter().map(|root| root * root).collect());
        weights
            * match self.likelihood.family {
                Family::Gaussian => z,
                Family::Softmax => {
                    let p = softmax(self.outputs.clone(), 1);
                    let turned = p.clone() * z;
                    turned.clone() - p * turned.sum_dim(1)
                }
            }
    }

    /// `√(w p_k)(e_k − p)` or `√w e_k` for the rows of that number, 0 for the others; times the root of the number of
    /// passes, since their mean is taken.
    fn exact(&self, class: usize, number: usize, row_numbers: Option<&[usize]>) -> Tensor<2> {
        let [m, classes] = self.outputs.dims();
        let scale = ((classes * self.likelihood.rows_per_sample()) as f64).sqrt();
        let here = |row: usize| row_numbers.is_none_or(|numbers| numbers[row] == number);
        let factors = (0..m).map(|row| if here(row) { scale * self.roots[row] } else { 0.0 }).collect();
        let unit = self.one_hot(Tensor::full([m, 1], class as i64, &self.outputs.device()));
        self.column(factors)
            * match self.likelihood.family {
                Family::Gaussian => unit,
                Family::Softmax => {
                    let p = softmax(self.outputs.clone(), 1);
                    p.clone().narrow(1, class, 1).sqrt() * (unit - p)
                }
            }
    }

    fn drawn(&self, draw: Draw, rng: &mut StdRng) -> Tensor<2> {
        let [m, classes] = self.outputs.dims();
        let roots = self.column(self.roots.clone());
        let entries = |values| self.tensor(values, [m, classes]);
        roots
            * match (self.likelihood.family, draw) {
                (Family::Softmax, Draw::Label) => {
                    let p = softmax(self.outputs.clone(), 1);
                    p.clone() - self.one_hot(below(p, (0..m).map(|_| rng.random()).collect()))
                }
                (Family::Softmax, Draw::Signs) => {
                    let p = softmax(self.outputs.clone(), 1);
                    let turned = p.clone().sqrt() * entries((0..m * classes).map(|_| sign(rng)).collect());
                    turned.clone() - p * turned.sum_dim(1)
                }
                (Family::Gaussian, Draw::Label) => entries((0..m * classes).map(|_| normal(rng)).collect()),
                (Family::Gaussian, Draw::Signs) => entries((0..m * classes).map(|_| sign(rng)).collect()),
            }
    }

    /// Ones at these classes, `[m, C]` for `[m, 1]`.
    fn one_hot(&self, classes: Tensor<2, Int>) -> Tensor<2> {
        let [m, count] = self.outputs.dims();
        let all = Tensor::<1, Int>::arange(0..count as i64, &self.outputs.device()).reshape([1, count]);
        classes.expand([m, count]).equal(all.expand([m, count])).float().cast(self.outputs.dtype())
    }

    fn column(&self, values: Vec<f64>) -> Tensor<2> {
        let m = values.len();
        self.tensor(values, [m, 1])
    }

    fn tensor(&self, values: Vec<f64>, shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), (&self.outputs.device(), self.outputs.dtype()))
    }
}

/// The class at which the sum of the probabilities `[m, C]` passes each of `m` levels in `[0, 1)`, `[m, 1]`.
fn below(p: Tensor<2>, levels: Vec<f64>) -> Tensor<2, Int> {
    let [m, classes] = p.dims();
    // In 16 bits a sum over many classes stops growing, and there are few levels.
    let dtype = if p.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let levels = Tensor::from_data(TensorData::new(levels, [m, 1]), (&p.device(), dtype));
    let p = p.cast(dtype);
    let sums = p.cumsum(1);
    // Rounding may leave the total a little below 1.
    let levels = levels * sums.clone().narrow(1, classes - 1, 1);
    let passed = sums.lower_equal(levels.expand([m, classes])).int().sum_dim(1);
    passed.clamp_max(classes as i64 - 1)
}
