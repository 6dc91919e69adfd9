use hyperinf_curvature::Damping;
use hyperinf_gradients::Estimate;
use hyperinf_scoring::{Method, Options};

/// A method to compare with a ground truth.
#[derive(Clone)]
pub struct Candidate {
    /// Its name in results.
    pub name: String,
    /// How scores are computed.
    pub options: Options,
    /// The estimate of the curvature; ignored by methods without one.
    pub estimate: Estimate,
}

impl Candidate {
    /// Whether the method inverts a curvature, so that damping and estimate matter.
    pub fn has_curvature(&self) -> bool {
        match self.options.method {
            Method::Identity => false,
            Method::Inverse { .. } => true,
        }
    }

    /// The name of the estimate: `empirical`, `sampled` or `gauss-newton`; `None` for a method without curvature.
    pub fn estimate_name(&self) -> Option<&'static str> {
        self.has_curvature().then_some(match self.estimate {
            Estimate::Empirical => "empirical",
            Estimate::Sampled { .. } => "sampled",
            Estimate::GaussNewton { .. } => "gauss-newton",
        })
    }

    /// The damping factor; `None` for a method without curvature.
    pub fn damping(&self) -> Option<f64> {
        let (Damping::Relative(factor) | Damping::Absolute(factor)) = self.options.damping;
        self.has_curvature().then_some(factor)
    }

    /// The candidate at each relative damping; once if it has no curvature.
    pub(super) fn at(&self, dampings: &[f64]) -> Vec<Self> {
        if !self.has_curvature() {
            return vec![self.clone()];
        }
        let at = |&factor: &f64| {
            let options = Options { damping: Damping::Relative(factor), ..self.options.clone() };
            Self { options, ..self.clone() }
        };
        dampings.iter().map(at).collect()
    }
}
