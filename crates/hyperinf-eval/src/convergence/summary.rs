use serde::Serialize;

use super::curve::{Curve, GivenUp, Point};
use super::{Method, MethodCurves};

/// The relative error at which an answer counts as found.
pub const FOUND: f64 = 1e-6;

/// Means over the draws on which a method did not diverge; `None` if it always diverged.
#[derive(Clone, Debug, Serialize)]
pub struct MethodSummary {
    /// The name of the method.
    pub name: &'static str,
    /// Draws on which it diverged.
    pub diverged: usize,
    /// Absolute errors at chosen steps: of the last iterate, where a method has ended or needs no steps.
    pub errors: Vec<At>,
    /// The relative error of the last iterate.
    pub relative: Option<MeanDeviation>,
    /// The cosine of the last iterate.
    pub cosine: Option<MeanDeviation>,
    /// The rank correlation of the last iterate; `None` also if all entries of an answer were equal.
    pub spearman: Option<MeanDeviation>,
    /// The first step with a relative error of at most [`FOUND`]; `None` if a draw has none, or there are no steps.
    pub steps_to_found: Option<MeanDeviation>,
    /// Steps of the last attempt, where a first one was given up; products and seconds are those of both.
    pub steps: Option<MeanDeviation>,
    /// Products of two matrices.
    pub matrix_products: Option<MeanDeviation>,
    /// Products of a vector with a matrix.
    pub vector_products: Option<MeanDeviation>,
    /// Seconds.
    pub seconds: Option<MeanDeviation>,
    /// Attempts that were given up and repeated from a certain bound.
    pub repeated: Vec<Repeated>,
    /// Why it diverged.
    pub failures: Vec<String>,
}

/// An attempt that was given up.
#[derive(Clone, Debug, Serialize)]
pub struct Repeated {
    /// The draw, from 0.
    pub draw: usize,
    /// Its steps.
    pub steps: usize,
    /// Its products of two matrices.
    pub matrix_products: usize,
    /// How its invalid bound showed.
    pub reason: String,
}

/// The error at a step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct At {
    /// The step.
    pub step: usize,
    /// The error.
    #[serde(flatten)]
    pub error: MeanDeviation,
}

/// A mean over draws, with their standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MeanDeviation {
    /// The mean.
    pub mean: f64,
    /// The standard deviation `√(Σ (x − mean)² / (m − 1))`; `None` for a single draw.
    pub deviation: Option<f64>,
}

impl MeanDeviation {
    /// `None` for no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Some(Self { mean, deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) })
    }
}

impl MethodCurves {
    /// The draws on which the method did not diverge.
    pub fn converged(&self) -> Vec<&Curve> {
        self.draws.iter().filter(|curve| curve.failure.is_none()).collect()
    }

    /// Means over the draws, with the absolute errors at these steps.
    pub fn summary(&self, steps: &[usize]) -> MethodSummary {
        let Self { method, draws } = self;
        let curves = self.converged();
        let last: Vec<&Point> = curves.iter().filter_map(|curve| curve.points.last()).collect();
        let mean =
            |of: &dyn Fn(&Point) -> f64| MeanDeviation::of(&last.iter().map(|point| of(point)).collect::<Vec<_>>());
        let at = |&step: &usize| {
            let errors: Option<Vec<f64>> = curves.iter().map(|c| Some(c.at(step)?.error.absolute)).collect();
            Some(At { step, error: MeanDeviation::of(&errors?)? })
        };
        let spearman: Option<Vec<f64>> = last.iter().map(|point| point.error.spearman).collect();
        MethodSummary {
            name: method.name(),
            diverged: draws.len() - curves.len(),
            errors: steps.iter().filter_map(at).collect(),
            relative: mean(&|p| p.error.relative),
            cosine: mean(&|p| p.error.cosine),
            spearman: spearman.and_then(|values| MeanDeviation::of(&values)),
            steps_to_found: steps_to_found(*method, &curves),
            steps: mean(&|p| p.step as f64),
            matrix_products: mean(&|p| p.matrix_products as f64),
            vector_products: mean(&|p| p.vector_products as f64),
            seconds: mean(&|p| p.seconds),
            repeated: draws.iter().enumerate().filter_map(repeated).collect(),
            failures: draws.iter().filter_map(|curve| curve.failure.clone()).collect(),
        }
    }
}

fn steps_to_found(method: Method, curves: &[&Curve]) -> Option<MeanDeviation> {
    if method.is_closed() {
        return None;
    }
    let found = |curve: &&Curve| Some(curve.points.iter().find(|p| p.error.relative <= FOUND)?.step as f64);
    MeanDeviation::of(&curves.iter().map(found).collect::<Option<Vec<f64>>>()?)
}

fn repeated((draw, curve): (usize, &Curve)) -> Option<Repeated> {
    let GivenUp { steps, matrix_products, reason } = curve.given_up.as_ref()?;
    Some(Repeated { draw, steps: *steps, matrix_products: *matrix_products, reason: reason.clone() })
}
