//! Ground truths: the effect of samples by retraining, and scores compared with it.

mod bank;
mod brittle;
mod error;
mod lbfgs;
mod lds;
mod lds_spread;
mod loo;
mod mislabel;
mod pbrf;
mod proximal;
mod retrain;
mod selection;
mod subclass;

use burn::tensor::{DType, Device};

pub use bank::{Bank, Job};
pub use brittle::{Brittleness, BrittlenessConfig, brittleness, random_scores};
pub use error::TruthError;
pub use lds::{Lds, LdsConfig, LdsTruth, lds, random_subsets};
pub use lds_spread::LdsSpread;
pub use loo::{LeaveOneOut, LooConfig, leave_one_out};
pub use mislabel::MislabelConfig;
pub use pbrf::PbrfConfig;
pub use proximal::{Proximal, Responses};
pub use retrain::{Outcome, Retrain};
pub use selection::{Selection, SelectionConfig, SelectionTrial, selection};
pub use subclass::SubclassConfig;

use crate::{Bench, Findings};

/// A ground truth: knowledge about samples without attribution, and the comparison of scores with it.
///
/// Its implementors are plain settings. [`evaluate`](crate::evaluate) does everything that ground truths share. To add
/// one, write a file in `src/truth/` and export it here.
pub trait Truth {
    /// The name, such as `lds`.
    fn name(&self) -> &'static str;

    /// What its figures measure: their range, and which direction is better.
    fn figure(&self) -> &'static str;

    /// How damping factors are used; by default relative to each block, 0.1.
    fn damping(&self) -> DampingRule {
        DampingRule::default()
    }

    /// The type that gradients and scores are computed in, on a device.
    fn precision(&self, device: &Device) -> DType {
        let _ = device;
        DType::F32
    }

    /// Computes the truth, adds a row for each baseline and candidate, and reports the findings.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, a training fails, or scores cannot be computed.
    fn evaluate(&self, bench: &mut Bench<'_>) -> Result<Findings, TruthError>;
}

/// The rule by which a ground truth uses damping factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DampingRule {
    /// The default factor.
    pub default: f64,
    /// What a factor multiplies, in words.
    pub kind: &'static str,
    /// Whether the truth itself depends on the factors, even if no candidate has a curvature.
    pub needed: bool,
}

impl Default for DampingRule {
    fn default() -> Self {
        let kind = "relative: factor × mean square of the entries of each block's gradients";
        Self { default: 0.1, kind, needed: false }
    }
}
