use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hyperinf::scoring::Pool;

/// Contrasts, groups, checkpoints and error bars.
#[derive(Debug, Args)]
pub(crate) struct VariantArgs {
    /// Gradients of other samples, for the curvature.
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Other gradients")]
    pub curvature_gradients: Option<PathBuf>,
    /// Gradients of contrast queries: scores are for the mean of the queries minus the mean of these.
    ///
    /// Positive = helps the queries more than these.
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Other gradients")]
    pub contrast_gradients: Option<PathBuf>,
    /// Another checkpoint of the training: gradients of the training samples, gradients of the queries, and the
    /// learning rate after it. May be given several times.
    ///
    /// Scores are summed over all checkpoints, each times its rate: TracIn with --method identity.
    #[arg(
        long,
        num_args = 3,
        value_names = ["TRAIN.safetensors", "QUERY.safetensors", "RATE"],
        requires = "learning_rate",
        allow_hyphen_values = true,
        help_heading = "Other gradients"
    )]
    pub checkpoint: Vec<String>,
    /// The learning rate after the checkpoint of --train-gradients.
    #[arg(
        long,
        value_name = "RATE",
        requires = "checkpoint",
        allow_hyphen_values = true,
        help_heading = "Other gradients"
    )]
    pub learning_rate: Option<f64>,
    /// The group of each training sample, one id per line: groups are scored instead of samples.
    #[arg(long, value_name = "FILE", conflicts_with = "train_ids", help_heading = "Groups and error bars")]
    pub groups: Option<PathBuf>,
    /// How the scores of a group are combined [default: sum].
    #[arg(long, value_enum, requires = "groups", help_heading = "Groups and error bars")]
    pub group_scores: Option<PoolArg>,
    /// Error bars from REPEATS sets of queries, drawn with replacement, or REPEATS random projections.
    ///
    /// For the mean query. Outputs get the columns score_std, low and high: for queries (1000 sets if left
    /// out) the standard error and the ends of the interval that holds 95 % of the sets; for projections
    /// (10) the standard deviation, the smallest and the largest.
    #[arg(long, value_name = "REPEATS", num_args = 0..=1, help_heading = "Groups and error bars")]
    pub uncertainty: Option<Option<usize>>,
    /// The source of the uncertainty [default: queries].
    #[arg(long, value_enum, value_name = "WHAT", requires = "uncertainty", help_heading = "Groups and error bars")]
    pub uncertainty_over: Option<OverArg>,
}

/// The source of the uncertainty behind error bars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OverArg {
    /// Queries, with replacement: the uncertainty from the choice of queries.
    #[default]
    Queries,
    /// The directions of --project: the uncertainty from the random projection.
    Projections,
}

/// The name of a [`Pool`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PoolArg {
    /// The effect of leaving the whole group out.
    #[default]
    Sum,
    /// Groups of different sizes on one scale.
    Mean,
}

impl From<PoolArg> for Pool {
    fn from(arg: PoolArg) -> Self {
        match arg {
            PoolArg::Sum => Self::Sum,
            PoolArg::Mean => Self::Mean,
        }
    }
}
