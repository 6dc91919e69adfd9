//! Ground truths: what retraining says about samples, to hold scores against.

mod bank;
mod brittle;
mod error;
mod lbfgs;
mod lds;
mod loo;
mod pbrf;
mod retrain;
mod selection;

pub use bank::{Bank, Job};
pub use brittle::{Brittleness, BrittlenessConfig, brittleness, random_scores};
pub use error::TruthError;
pub use lds::{Lds, LdsConfig, LdsTruth, lds, random_subsets};
pub use loo::{LeaveOneOut, leave_one_out};
pub use pbrf::{Proximal, Responses};
pub use retrain::{Outcome, Retrain};
pub use selection::{Selection, SelectionConfig, selection};
