//! What judges an attribution: AUC, detection rate, correlations, and ground truths by retraining.
//!
//! | item | what it is |
//! |---|---|
//! | [`auc`], [`detection_rate`], [`pearson`], [`spearman`] | figures of plain slices in f64 |
//! | [`flipped_labels`] | a random share of labels to be made wrong |
//! | [`Interval`] | a mean with its 95 % interval |
//! | [`bootstrap`], [`between`] | how far scores and rankings may be off: over queries, over seeds |
//! | [`Retrain`] | a model that can be trained on any part of its samples: what a user implements |
//! | [`Bank`] | the results of retrainings, kept in a file, so that none is done twice |
//! | [`leave_one_out`] | what leaving each sample out does to each query |
//! | [`lds`], [`LdsTruth`] | the linear datamodelling score |
//! | [`brittleness`] | whether removing a query's most helpful samples changes its prediction |
//! | [`selection`] | retraining on the best samples, with random draws beside |
//! | [`Proximal`] | the proximal Bregman response function of any Burn module |
//! | [`Ridge`], [`Logistic`] | convex models whose answers are exact |
//! | [`digits`] | the built-in task: images of digits and a perceptron that is trained in a fraction of a second |
//!
//! Nothing of the pipeline depends on this crate.

mod convex;
mod correlation;
mod detection;
pub mod digits;
mod error;
mod noise;
mod statistics;
mod truth;
mod uncertainty;

pub use convex::{Logistic, Ridge, Rows};
pub use correlation::{pearson, spearman};
pub use detection::{auc, detection_rate};
pub use error::EvalError;
pub use hyperinf_linalg::ranks;
pub use noise::flipped_labels;
pub use statistics::{Interval, mean_and_error};
pub use truth::{
    Bank, Brittleness, BrittlenessConfig, Job, Lds, LdsConfig, LdsTruth, LeaveOneOut, Outcome, Proximal, Responses,
    Retrain, Selection, SelectionConfig, TruthError, brittleness, lds, leave_one_out, random_scores, random_subsets,
    selection,
};
pub use uncertainty::{Bootstrap, Spread, Stability, Stratum, between, bootstrap};
