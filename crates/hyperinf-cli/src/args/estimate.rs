use clap::{Args, ValueEnum};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::EstimateKind;

use crate::error::{CliError, Usage};

/// The estimate of the curvature.
#[derive(Debug, Args)]
pub(crate) struct EstimateArgs {
    /// The estimate of the curvature: from the gradients of the labels, from the gradients of labels
    /// sampled from the model, or the Gauss-Newton matrix [default: empirical]
    #[arg(long, value_enum, help_heading = "Method")]
    pub estimate: Option<EstimateArg>,
    /// sampled: draws of labels per row [default: 1]. gauss-newton: draws of a random sketch [default: exact].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Method")]
    pub draws: Option<u32>,
    /// The seed of the draws alone.
    #[arg(long, value_name = "SEED", hide = true)]
    pub estimate_seed: Option<u64>,
}

/// The name of an [`Estimate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EstimateArg {
    /// The gradients of the losses.
    #[default]
    Empirical,
    /// Gradients of labels sampled from the model: the true Fisher by Monte Carlo.
    Sampled,
    /// The generalised Gauss-Newton matrix, exact or by a random sketch.
    GaussNewton,
}

impl EstimateArgs {
    /// The estimate, of which the method may name the kind; `seed` is that of all draws.
    ///
    /// # Errors
    ///
    /// If the method names another kind, or draws or a seed are given and nothing is drawn.
    pub(crate) fn estimate(&self, of_method: Option<EstimateKind>, seed: Option<u64>) -> Result<Estimate, CliError> {
        let refused = |first: String, second, reason| Err(Usage::Combination { first, second, reason }.into());
        let kind = match (of_method, self.estimate.map(EstimateKind::from)) {
            (Some(named), Some(asked)) if named != asked => {
                return refused(format!("--estimate {asked}"), "--method", "the method names another estimate");
            }
            (named, asked) => asked.or(named).unwrap_or_default(),
        };
        let draws = self.draws.map(|draws| draws as usize);
        match (kind, draws, self.estimate_seed) {
            (EstimateKind::Empirical, Some(_), _) => {
                refused(format!("--estimate {kind}"), "--draws", "nothing is drawn for it")
            }
            (EstimateKind::Empirical, None, Some(_)) => {
                refused(format!("--estimate {kind}"), "--estimate-seed", "nothing is drawn for it")
            }
            (EstimateKind::GaussNewton, None, Some(_)) => {
                let reason = "without --draws it is exact and nothing is drawn";
                refused(format!("--estimate {kind}"), "--estimate-seed", reason)
            }
            (_, draws, own) => Ok(kind.estimate(draws, own.or(seed).unwrap_or(0))),
        }
    }
}

impl From<EstimateArg> for EstimateKind {
    fn from(arg: EstimateArg) -> Self {
        match arg {
            EstimateArg::Empirical => Self::Empirical,
            EstimateArg::Sampled => Self::Sampled,
            EstimateArg::GaussNewton => Self::GaussNewton,
        }
    }
}
