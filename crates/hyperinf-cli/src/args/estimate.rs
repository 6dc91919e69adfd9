use clap::{Args, ValueEnum};

/// What the curvature is made of.
#[derive(Debug, Args)]
pub struct EstimateArgs {
    /// What is sent back from the model's outputs for the curvature: the gradients of the labels, of
    /// labels drawn from the model, or the Gauss-Newton matrix [default: empirical]
    #[arg(long, value_enum, verbatim_doc_comment)]
    pub estimate: Option<EstimateArg>,
    /// sampled: draws of labels per row [default: 1]. gauss-newton: draws of a random sketch [default: exact].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub draws: Option<u32>,
    /// Decides what is drawn [default: 0].
    #[arg(long, value_name = "SEED")]
    pub estimate_seed: Option<u64>,
}

/// [`Estimate`](hyperinf::gradients::Estimate) as typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EstimateArg {
    /// The losses' own gradients.
    #[default]
    Empirical,
    /// Gradients for labels drawn from the model: the true Fisher by Monte Carlo.
    Sampled,
    /// The generalised Gauss-Newton matrix, exact or by a random sketch.
    GaussNewton,
}
