use super::rows::{Hessian, Rows, dot};
use crate::{Outcome, Retrain, TruthError};

/// The norm of the gradient, over the number of samples, at which Newton's method ends.
const TOLERANCE: f64 = 1e-10;
/// Maximum number of steps; ten are usual.
const STEPS: usize = 100;

/// Logistic regression: `Σ_i log(1 + exp(−s_i x_i θ)) + α/2 ||θ||²`, `s_i = ±1` for the targets 1 and 0, minimised by
/// Newton's method until the norm of the gradient is `1e-10 · n`, so that leaving a sample out has one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Logistic {
    /// Training samples; targets are 0 or 1.
    pub train: Rows,
    /// Queries, with as many features.
    pub queries: Rows,
    /// α, not divided by the number of samples; positive.
    pub penalty: f64,
}

/// `1/(1 + exp(−z))`.
fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 { 1.0 / (1.0 + (-z).exp()) } else { z.exp() / (1.0 + z.exp()) }
}

/// `log(1 + exp(−s z))`, without overflow.
fn loss(z: f64, target: f64) -> f64 {
    let margin = if target > 0.5 { z } else { -z };
    (-margin).max(0.0) + (-margin.abs()).exp().ln_1p()
}

impl Logistic {
    /// `θ` for a subset of the samples.
    ///
    /// # Errors
    ///
    /// If the Hessian is not positive definite, or 100 steps are not enough.
    pub fn fit(&self, subset: &[usize]) -> Result<Vec<f64>, TruthError> {
        let mut theta = vec![0.0; self.train.width];
        let tolerance = TOLERANCE * subset.len() as f64;
        let mut norm = f64::INFINITY;
        for _ in 0..STEPS {
            let gradient = self.gradient(subset, &theta);
            norm = dot(&gradient, &gradient).sqrt();
            if norm <= tolerance {
                return Ok(theta);
            }
            let step = self.hessian(subset, &theta)?.solve(&gradient);
            let (value, slope) = (self.objective(subset, &theta), dot(&gradient, &step));
            let mut length = 1.0;
            loop {
                let next: Vec<f64> = theta.iter().zip(&step).map(|(t, s)| t - length * s).collect();
                // Near the minimum the objective is flat to rounding, and the full step is correct.
                let down = self.objective(subset, &next) <= value - 1e-4 * length * slope + 1e-12 * value.abs();
                if down || length < 1e-9 {
                    theta = next;
                    break;
                }
                length /= 2.0;
            }
        }
        Err(TruthError::NotMinimised { steps: STEPS, norm, tolerance })
    }

    fn objective(&self, subset: &[usize], theta: &[f64]) -> f64 {
        let losses: f64 = subset.iter().map(|&i| loss(self.train.output(i, theta), self.train.targets[i])).sum();
        losses + self.penalty / 2.0 * dot(theta, theta)
    }

    fn gradient(&self, subset: &[usize], theta: &[f64]) -> Vec<f64> {
        let mut sum: Vec<f64> = theta.iter().map(|t| self.penalty * t).collect();
        for &i in subset {
            let slope = sigmoid(self.train.output(i, theta)) - self.train.targets[i];
            sum.iter_mut().zip(self.train.row(i)).for_each(|(sum, x)| *sum += slope * x);
        }
        sum
    }

    fn hessian(&self, subset: &[usize], theta: &[f64]) -> Result<Hessian, TruthError> {
        let weight = |i: usize| {
            let p = sigmoid(self.train.output(i, theta));
            p * (1.0 - p)
        };
        Hessian::new(&self.train, subset, weight, self.penalty)
    }

    /// The first-order effect of leaving each sample out on each query's loss: `v H⁻¹ g_i` with the exact Hessian,
    /// `[q][n]`; positive = helpful.
    ///
    /// # Errors
    ///
    /// As [`Logistic::fit`].
    pub fn influence(&self) -> Result<Vec<Vec<f64>>, TruthError> {
        let Self { train, queries, .. } = self;
        let all: Vec<usize> = (0..train.len()).collect();
        let theta = self.fit(&all)?;
        let hessian = self.hessian(&all, &theta)?;
        let slope = |rows: &Rows, i: usize| sigmoid(rows.output(i, &theta)) - rows.targets[i];
        let of_query = |q: usize| {
            let x = hessian.solve(queries.row(q));
            all.iter().map(|&i| slope(queries, q) * dot(&x, train.row(i)) * slope(train, i)).collect()
        };
        Ok((0..queries.len()).map(of_query).collect())
    }
}

impl Retrain for Logistic {
    fn samples(&self) -> usize {
        self.train.len()
    }

    fn queries(&self) -> usize {
        self.queries.len()
    }

    fn fingerprint(&self) -> String {
        format!("logistic {:016x} {:016x}, penalty {}", self.train.checksum(), self.queries.checksum(), self.penalty)
    }

    fn query_losses(&self, subset: &[usize], seed: u64) -> Result<Vec<f64>, TruthError> {
        Ok(self.outcome(subset, seed)?.losses)
    }

    fn outcome(&self, subset: &[usize], _seed: u64) -> Result<Outcome, TruthError> {
        let theta = self.fit(subset)?;
        let outputs: Vec<f64> = (0..self.queries.len()).map(|q| self.queries.output(q, &theta)).collect();
        let losses = outputs.iter().zip(&self.queries.targets).map(|(&z, &target)| loss(z, target)).collect();
        let predictions = outputs.iter().map(|&z| usize::from(z > 0.0)).collect();
        Ok(Outcome { losses, predictions: Some(predictions) })
    }
}
