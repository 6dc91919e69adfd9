use std::time::Instant;

use burn::tensor::Tensor;
use hyperinf_linalg::host;

use super::ConvergenceError;
use super::problem::Problem;
use crate::{EvalError, spearman};

/// The iterates of one method on one draw.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Every iterate whose entries are finite, by ascending step. A closed form has one, as step 0; an iteration on
    /// vectors begins with step 1, one on matrices with its start, step 0.
    pub points: Vec<Point>,
    /// Why it ended early, if it diverged.
    pub failure: Option<String>,
    /// The first attempt, if its bound was too low: its products and seconds are counted in the points, its steps are
    /// not.
    pub given_up: Option<GivenUp>,
}

impl Curve {
    /// The iterate at a step, or the last before it.
    pub fn at(&self, step: usize) -> Option<&Point> {
        self.points.iter().rev().find(|point| point.step <= step)
    }
}

/// An attempt whose assumed bound proved invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Steps of its last iterate.
    pub steps: usize,
    /// Products of two matrices spent.
    pub matrix_products: usize,
    /// How the invalid bound showed.
    pub reason: String,
}

/// An iterate and its error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The step.
    pub step: usize,
    /// Products of two `[d, d]` matrices so far.
    pub matrix_products: usize,
    /// Products of a vector with a `[d, d]` matrix so far; with the samples where these are held.
    pub vector_products: usize,
    /// Seconds so far, without those that the errors took.
    pub seconds: f64,
    /// Its error.
    pub error: Errors,
}

/// The error of an iterate `x̂` against the answer `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Errors {
    /// `||x̂ − x||₂`.
    pub absolute: f64,
    /// `||x̂ − x||₂ / ||x||₂`.
    pub relative: f64,
    /// The cosine of the angle between them; NaN for `x̂ = 0`.
    pub cosine: f64,
    /// The rank correlation of the entries; `None` if all entries of `x̂` are equal.
    pub spearman: Option<f64>,
}

impl Errors {
    fn of(x: &[f64], answer: &[f64]) -> Result<Self, EvalError> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let norm = |a: &[f64]| dot(a, a).sqrt();
        let absolute = x.iter().zip(answer).map(|(x, a)| (x - a).powi(2)).sum::<f64>().sqrt();
        let spearman = match spearman(x, answer) {
            Ok(value) => Some(value),
            Err(EvalError::Constant { .. }) => None,
            Err(error) => return Err(error),
        };
        let cosine = dot(x, answer) / (norm(x) * norm(answer));
        Ok(Self { absolute, relative: absolute / norm(answer), cosine, spearman })
    }
}

/// Collects iterates, with a clock that stands still while their errors are computed.
pub(super) struct Recorder<'a> {
    pub(super) problem: &'a Problem,
    pub(super) points: Vec<Point>,
    pub(super) given_up: Option<GivenUp>,
    seconds: f64,
    resumed: Instant,
    failed: Option<ConvergenceError>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(problem: &'a Problem) -> Self {
        let (points, given_up, failed) = (Vec::new(), None, None);
        Self { problem, points, given_up, seconds: 0.0, resumed: Instant::now(), failed }
    }

    /// Starts the clock again.
    pub(super) fn start(&mut self) {
        (self.seconds, self.resumed) = (0.0, Instant::now());
    }

    /// Adds an iterate `x`, `[1, d]`.
    pub(super) fn add(&mut self, step: usize, matrix_products: usize, vector_products: usize, x: Tensor<2>) {
        // Reading the values waits for the device.
        let x = host(x);
        self.seconds += self.resumed.elapsed().as_secs_f64();
        let error = x.map_err(ConvergenceError::from).and_then(|x| {
            // An iterate that is not finite has no error; its solver reports the divergence.
            let finite = x.iter().all(|value| value.is_finite());
            Ok(finite.then(|| Errors::of(&x, &self.problem.answer)).transpose()?)
        });
        match error {
            Ok(Some(error)) => {
                self.points.push(Point { step, matrix_products, vector_products, seconds: self.seconds, error });
            }
            Ok(None) => {}
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
        self.resumed = Instant::now();
    }

    /// The curve, which ended early by `failure`.
    pub(super) fn curve(self, failure: Option<String>) -> Result<Curve, ConvergenceError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(Curve { points: self.points, failure, given_up: self.given_up }),
        }
    }
}
