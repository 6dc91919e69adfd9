use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hyperinf::scoring::Pool;

/// What `hyperinf score` can do beyond one score per sample and query.
#[derive(Debug, Args)]
pub struct VariantArgs {
    /// Gradients of other samples, whose curvature is taken instead of the training samples'.
    #[arg(long, value_name = "FILE.safetensors")]
    pub curvature_gradients: Option<PathBuf>,
    /// Gradients of queries that count the other way: scores are for the mean of the queries less the mean of these.
    ///
    /// Positive = helps the queries more than these.
    #[arg(long, value_name = "FILE.safetensors")]
    pub contrast_gradients: Option<PathBuf>,
    /// The model at another moment of its training: its gradients of the training samples, of the queries, and the
    /// learning rate with which the training went on from there. May be given several times.
    ///
    /// Scores are summed over all moments, each times its rate: with --method identity TracIn's.
    #[arg(
        long,
        num_args = 3,
        value_names = ["TRAIN.safetensors", "QUERY.safetensors", "RATE"],
        requires = "learning_rate",
        allow_hyphen_values = true,
        verbatim_doc_comment
    )]
    pub checkpoint: Vec<String>,
    /// The learning rate with which the training went on from the model of --train-gradients.
    #[arg(long, value_name = "RATE", requires = "checkpoint", allow_hyphen_values = true)]
    pub learning_rate: Option<f64>,
    /// The group of each training sample, one id per line: groups are scored instead of samples.
    #[arg(long, value_name = "FILE")]
    pub groups: Option<PathBuf>,
    /// How the scores of a group become one [default: sum].
    #[arg(long, value_enum, requires = "groups")]
    pub group_scores: Option<PoolArg>,
    /// Tell how far scores and ranking may be off: from REPEATS sets of queries, drawn with replacement,
    /// or REPEATS random projections.
    ///
    /// For the mean query. Outputs get the columns score_std, low and high: for queries (1000 sets if left
    /// out) the standard error and the ends of the interval that holds 95 % of the sets; for projections
    /// (10) the standard deviation, the smallest and the largest.
    #[arg(long, value_name = "REPEATS", num_args = 0..=1, verbatim_doc_comment)]
    pub uncertainty: Option<Option<usize>>,
    /// What is drawn anew [default: queries].
    #[arg(long, value_enum, value_name = "WHAT", requires = "uncertainty")]
    pub uncertainty_over: Option<OverArg>,
    /// Decides which queries are drawn [default: 0].
    #[arg(long, requires = "uncertainty")]
    pub seed: Option<u64>,
}

/// What is drawn anew for error bars, as typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OverArg {
    /// Queries, with replacement: how much hangs on which queries there are.
    #[default]
    Queries,
    /// The directions of --project: how much hangs on chance.
    Projections,
}

/// [`Pool`] as typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PoolArg {
    /// What leaving the whole group out would do.
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
