//! Figures that judge an attribution: AUC, detection rate, correlations.
//!
//! Everything here takes plain slices in f64 and needs no model and no device.

mod correlation;
mod detection;
mod error;

pub use correlation::{pearson, ranks, spearman};
pub use detection::{auc, detection_rate};
pub use error::EvalError;
