//! Candidates, their scores, and a ground truth: one evaluation from settings to figures.

mod bench;
mod candidate;
mod ensemble;
mod memory;
mod result;

use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf_curvature::Damping;
use hyperinf_scoring::ScoreError;

pub use self::bench::{Bench, Progress, Stage};
pub use self::candidate::Candidate;
pub use self::ensemble::{Ensemble, MethodScores};
pub use self::result::{Evaluation, Figure, Findings, Row};

use crate::digits::DigitsConfig;
use crate::{Truth, TruthError};

/// An evaluation: the task, the methods, and how their scores are made.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `task` | 1,000 digits, 100 queries | data, perceptron and training | see [`DigitsConfig`] |
/// | `candidates` | none | the methods to compare | |
/// | `dampings` | none | damping factors; with none, the truth's default | positive, finite |
/// | `models` | 1 | trained models, with the seeds 0, 1, …, whose scores are averaged | ≥ 1 |
/// | `bank` | `None` | file that keeps the results of retrainings; `None`: memory only | |
/// | `memory` | `None` | bytes that may be taken; `None`: what can be addressed | |
#[derive(Clone)]
pub struct EvalConfig {
    /// The data, the perceptron and its training.
    pub task: DigitsConfig,
    /// The methods to compare.
    pub candidates: Vec<Candidate>,
    /// The damping factors, see [`Truth::damping`].
    pub dampings: Vec<f64>,
    /// The number of trained models whose scores are averaged.
    pub models: usize,
    /// The file of the [`Bank`](crate::Bank).
    pub bank: Option<PathBuf>,
    /// The memory in bytes that trainings and scores may take, estimated before any of them.
    pub memory: Option<f64>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        let (candidates, dampings) = (Vec::new(), Vec::new());
        Self { task: DigitsConfig::default(), candidates, dampings, models: 1, bank: None, memory: None }
    }
}

/// Computes a ground truth and compares every candidate's scores with it.
///
/// Gradients and scores are computed on `device`, retrainings on all of the processor's threads. `progress` is called
/// from the thread that does the work.
///
/// # Errors
///
/// If a setting is out of range, the memory is too small, a training fails, scores cannot be computed, or the bank cannot be read or written.
/// Trainings that ended before are kept in the bank.
pub fn evaluate(
    truth: &dyn Truth,
    config: &EvalConfig,
    device: &Device,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Evaluation, TruthError> {
    let rule = truth.damping();
    let dampings = if config.dampings.is_empty() { vec![rule.default] } else { config.dampings.clone() };
    for &factor in &dampings {
        Damping::Relative(factor).validate().map_err(ScoreError::from)?;
    }
    if config.models == 0 {
        return Err(TruthError::Setting { name: "models", expected: "at least 1".into(), value: 0.0 });
    }
    memory::check(config)?;
    let precision = truth.precision(device);
    let mut bench = Bench::new(config, dampings, device, precision, progress);
    let findings = truth.evaluate(&mut bench)?;
    Ok(bench.finish(truth, findings))
}
