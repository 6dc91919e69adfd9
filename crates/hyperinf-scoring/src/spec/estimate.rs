use std::fmt;

use hyperinf_gradients::{Estimate, Sketch};

/// The kind of an [`Estimate`], without draws and seed, as in a [`MethodSpec`](crate::MethodSpec).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EstimateKind {
    /// The gradients of the losses themselves: the empirical Fisher.
    #[default]
    Empirical,
    /// Gradients for labels drawn from the model: the true Fisher by Monte Carlo.
    Sampled,
    /// The generalised Gauss-Newton matrix.
    GaussNewton,
}

impl EstimateKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Empirical, Self::Sampled, Self::GaussNewton];

    /// Its word: `empirical`, `sampled` or `gauss-newton`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empirical => "empirical",
            Self::Sampled => "sampled",
            Self::GaussNewton => "gauss-newton",
        }
    }

    /// The estimate with these draws per sample and this seed; without draws one label, or the exact matrix.
    pub fn estimate(self, draws: Option<usize>, seed: u64) -> Estimate {
        match self {
            Self::Empirical => Estimate::Empirical,
            Self::Sampled => Estimate::Sampled { seed, draws: draws.unwrap_or(1) },
            Self::GaussNewton => Estimate::GaussNewton { sketch: draws.map(|draws| Sketch { draws, seed }) },
        }
    }
}

impl From<Estimate> for EstimateKind {
    fn from(estimate: Estimate) -> Self {
        match estimate {
            Estimate::Empirical => Self::Empirical,
            Estimate::Sampled { .. } => Self::Sampled,
            Estimate::GaussNewton { .. } => Self::GaussNewton,
        }
    }
}

impl fmt::Display for EstimateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
