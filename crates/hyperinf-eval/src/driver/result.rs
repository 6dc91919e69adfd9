use hyperinf_scoring::EstimateKind;
use serde_json::{Map, Value};

use super::{Candidate, MethodScores};
use crate::{Interval, Retrain};

/// A named number of a method.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The name, a column in tables.
    pub name: String,
    /// The value; `None` where it is undefined.
    pub value: Option<f64>,
}

impl Figure {
    /// A figure of that name.
    pub fn new(name: impl Into<String>, value: impl Into<Option<f64>>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    /// A mean under `name` and the ends of its interval under `low` and `high`.
    pub(crate) fn interval([name, low, high]: [&str; 3], mean: Option<Interval>) -> [Self; 3] {
        [
            Self::new(name, mean.map(|mean| mean.mean)),
            Self::new(low, mean.and_then(|mean| mean.low)),
            Self::new(high, mean.and_then(|mean| mean.high)),
        ]
    }
}

/// A method or baseline with its figures, which have the same names in every row of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The method's name.
    pub method: String,
    /// The damping factor; `None` where there is no damping.
    pub damping: Option<f64>,
    /// The estimate of the curvature; `None` for methods without curvature.
    pub estimate: Option<EstimateKind>,
    /// The figures, the most important one first.
    pub figures: Vec<Figure>,
    /// Seconds spent on the scores; `None` for baselines.
    pub seconds: Option<f64>,
    /// The largest relative residual of the inverses.
    pub residual: Option<f64>,
    /// Whether every solver reached its tolerance.
    pub converged: bool,
}

impl Row {
    /// A row for a baseline: no curvature, no cost.
    pub fn baseline(name: &str, figures: Vec<Figure>) -> Self {
        Self {
            method: name.to_owned(),
            damping: None,
            estimate: None,
            figures,
            seconds: None,
            residual: None,
            converged: true,
        }
    }

    /// A candidate's row.
    pub fn of(candidate: &Candidate, found: &MethodScores, figures: Vec<Figure>) -> Self {
        Self {
            method: candidate.name.clone(),
            damping: candidate.damping(),
            estimate: candidate.estimate_kind(),
            figures,
            seconds: Some(found.seconds),
            residual: found.residual,
            converged: found.converged,
        }
    }
}

/// The report of a ground truth, apart from its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// What was done, in one or two sentences with the numbers in them.
    pub about: String,
    /// The task's [fingerprint](Retrain::fingerprint).
    pub task: String,
    /// Training samples of the task.
    pub samples: usize,
    /// Queries that the truth is about.
    pub queries: usize,
    /// The truth's settings, and findings that concern no single method.
    pub details: Map<String, Value>,
}

impl Findings {
    /// Findings about a task.
    pub fn new(task: &dyn Retrain, about: String, details: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let details = details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { about, task: task.fingerprint(), samples: task.samples(), queries: task.queries(), details }
    }
}

/// The result of [`evaluate`](crate::evaluate).
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The truth's name.
    pub truth: &'static str,
    /// What the figures measure: range, direction.
    pub figure: &'static str,
    /// What the damping factors multiply.
    pub damping_kind: &'static str,
    /// The type that gradients and scores were computed in, such as `f32`.
    pub precision: &'static str,
    /// What was done and found.
    pub findings: Findings,
    /// One row per baseline, candidate and damping.
    pub rows: Vec<Row>,
    /// Wall-clock seconds of everything.
    pub seconds: f64,
}
