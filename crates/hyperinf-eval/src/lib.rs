//! Judging training-data attribution: correlations, AUC, error bars, and ground truths by retraining.
//!
//! | item | purpose |
//! |---|---|
//! | [`auc`], [`detection_rate`], [`pearson`], [`spearman`] | figures of plain slices in f64 |
//! | [`flipped_labels`] | a random share of labels to be made wrong |
//! | [`Interval`] | a mean with its 95 % interval |
//! | [`bootstrap`], [`between`] | error bars of scores and rankings: over queries, over seeds |
//! | [`agreements`] | how far rankings by several methods agree |
//! | [`study_dampings`], [`advise`] | how stable scores are over dampings, and which damping finds samples known to be bad |
//! | [`Retrain`] | the trait to implement for a model that can be trained on any part of its samples |
//! | [`Bank`] | results of retrainings in a file; no training is repeated |
//! | [`Truth`], [`evaluate`] | a ground truth, and the driver that compares methods with it |
//! | [`leave_one_out`], [`lds`], [`brittleness`], [`selection`] | ground truths of any [`Retrain`], for any scores |
//! | [`Proximal`] | the proximal Bregman response function of any Burn module |
//! | [`Ridge`], [`Logistic`] | convex models whose answers are exact |
//! | [`convergence`] | how fast each solver approaches the inverse of a damped matrix |
//! | [`digits`] | the built-in task: images of digits and a perceptron that is trained in a fraction of a second |
//!
//! The pipeline never depends on this crate.
//!
//! Scores of a convex model, compared with leave-one-out retraining:
//!
//! ```
//! use hyperinf_eval::{Bank, Ridge, Rows, leave_one_out, spearman};
//!
//! let rows = |targets: &[f64]| {
//!     let features = (0..targets.len()).flat_map(|i| [1.0, i as f64]).collect();
//!     Rows { width: 2, features, targets: targets.to_vec() }
//! };
//! let train = rows(&[0.1, 0.9, 2.2, 2.8, 4.1, 9.0]); // the last one is far off the line
//! let task = Ridge { train, queries: rows(&[0.0, 1.0, 2.0]), penalty: 0.1 };
//!
//! let scores = task.influence()?; // [queries, samples], positive = helpful
//! let all: Vec<usize> = (0..6).collect();
//! let truth = leave_one_out(&task, &all, &[0], &mut Bank::memory(&task), &|_, _| {})?;
//! assert!(spearman(&scores[2], &truth.effects[2])? > 0.9);
//! # Ok::<(), hyperinf_eval::TruthError>(())
//! ```

mod agreement;
mod checksum;
pub mod convergence;
mod convex;
mod correlation;
mod damping;
mod detection;
pub mod digits;
mod driver;
mod error;
mod noise;
mod statistics;
mod truth;
mod uncertainty;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use {burn, hyperinf_curvature, hyperinf_gradients, hyperinf_linalg, hyperinf_scoring, hyperinf_solvers};

pub use agreement::{Agreement, agreements, default_top};
pub use convex::{Logistic, Ridge, Rows};
pub use correlation::{pearson, spearman};
pub use damping::{
    Advice, DampingConfig, DampingStudy, Evidence, KnownError, advise, known_bad, plateaus, study_dampings,
};
pub use detection::{auc, detection_rate};
pub use driver::{
    Bench, Candidate, Ensemble, EvalConfig, Evaluation, Figure, Findings, MethodScores, Progress, Row, Stage, evaluate,
};
pub use error::EvalError;
pub use hyperinf_linalg::ranks;
pub use noise::flipped_labels;
pub use statistics::{Interval, mean_and_error};
// The list of ground truths is in `truth.rs`, so that a new one is registered once.
pub use truth::*;
pub use uncertainty::{Bootstrap, Spread, Stability, Stratum, between, bootstrap};
