use clap::{Args, ValueEnum};
use hyperinf::gradients::{Estimate, Sketch};

use crate::error::CliError;

/// The estimate of the curvature.
#[derive(Debug, Args)]
pub struct EstimateArgs {
    /// What the curvature is made of: the gradients of the labels, the gradients of labels sampled from
    /// the model, or the Gauss-Newton matrix [default: empirical]
    #[arg(long, value_enum, verbatim_doc_comment)]
    pub estimate: Option<EstimateArg>,
    /// sampled: draws of labels per row [default: 1]. gauss-newton: draws of a random sketch [default: exact].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub draws: Option<u32>,
    /// The seed of the draws [default: 0].
    #[arg(long, value_name = "SEED")]
    pub estimate_seed: Option<u64>,
}

/// The name of an [`Estimate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EstimateArg {
    /// The gradients of the losses.
    #[default]
    Empirical,
    /// Gradients of labels sampled from the model: the true Fisher by Monte Carlo.
    Sampled,
    /// The generalised Gauss-Newton matrix, exact or by a random sketch.
    GaussNewton,
}

impl EstimateArgs {
    /// The estimate.
    ///
    /// # Errors
    ///
    /// If draws or a seed are given and nothing is drawn.
    pub(crate) fn estimate(&self) -> Result<Estimate, CliError> {
        let refused = |first: &str, second, reason| Err(CliError::Combination { first: first.into(), second, reason });
        let seed = self.estimate_seed.unwrap_or(0);
        let draws = self.draws.map(|draws| draws as usize);
        match (self.estimate.unwrap_or_default(), draws, self.estimate_seed) {
            (EstimateArg::Empirical, Some(_), _) => {
                refused("--estimate empirical", "--draws", "nothing is drawn for it")
            }
            (EstimateArg::Empirical, None, Some(_)) => {
                refused("--estimate empirical", "--estimate-seed", "nothing is drawn for it")
            }
            (EstimateArg::Empirical, None, None) => Ok(Estimate::Empirical),
            (EstimateArg::Sampled, draws, _) => Ok(Estimate::Sampled { seed, draws: draws.unwrap_or(1) }),
            (EstimateArg::GaussNewton, None, Some(_)) => {
                let reason = "without --draws it is exact and nothing is drawn";
                refused("--estimate gauss-newton", "--estimate-seed", reason)
            }
            (EstimateArg::GaussNewton, None, None) => Ok(Estimate::GaussNewton { sketch: None }),
            (EstimateArg::GaussNewton, Some(draws), _) => {
                Ok(Estimate::GaussNewton { sketch: Some(Sketch { draws, seed }) })
            }
        }
    }
}
