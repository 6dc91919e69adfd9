use clap::{Args, ValueEnum};
use hyperinf::curvature::{Scale, Side};
use hyperinf::scoring::{Normalisation, QueryMode, RankBy};

use super::DeviceArgs;
use crate::error::{CliError, Usage};

/// Arguments shared by all commands that score.
#[derive(Debug, Default, Args)]
pub(crate) struct ScoringArgs {
    /// The method: a name that `hyperinf methods` lists.
    ///
    /// With its choices: NAME[:SIDE][:SCALE][:merged][/SOLVER][@ESTIMATE], such as hyperinf:cols:merged@gauss-newton;
    /// the flags under "Method" say the same. attribute, detect and select take several, separated by commas, and
    /// baselines without gradients: random, length, loss, bm25, hidden-cosine, or all of them as baselines;
    /// and, of an adapter of finetune --record, unrolled, the exact derivative through its training, and tracin-cp,
    /// tracin-adam and source by its recorded states.
    #[arg(long, value_name = "METHOD", default_value = "hyperinf", display_order = 9)]
    pub method: String,
    /// Another solver than the method's own; auto chooses by size and device.
    #[arg(long, value_name = "NAME", help_heading = "Method")]
    pub solver: Option<String>,
    /// The divisor of the scores [default: none; cosine for the method cosine].
    #[arg(long, value_enum, help_heading = "Method")]
    pub normalise: Option<NormaliseArg>,
    /// What ranks are by: the score, or its size, which finds what a query is about.
    #[arg(long, value_enum, default_value_t, help_heading = "Method")]
    pub rank_by: RankByArg,
    /// Scores may take this much memory, estimated from the sizes [default: what the system grants].
    #[arg(long, value_name = "GIB", value_parser = gib, help_heading = "Method")]
    pub memory: Option<f64>,
    /// Options shared by all methods.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// Print the summary as JSON.
    #[arg(long, display_order = 12)]
    pub json: bool,
    /// Fail, without output, if a solver did not reach its tolerance.
    #[arg(long, help_heading = "Method")]
    pub strict: bool,
}

impl ScoringArgs {
    /// The memory that scores may take, in bytes.
    pub(crate) fn memory(&self) -> Option<f64> {
        self.memory.map(|gib| gib * GIB)
    }
}

/// One GiB in bytes.
pub(crate) const GIB: f64 = (1_u64 << 30) as f64;

/// A positive number of GiB.
pub(crate) fn gib(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(gib) if gib > 0.0 => Ok(gib),
        _ => Err("expected a positive number of GiB".into()),
    }
}

/// Options shared by all methods.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SharedArgs {
    /// λ of each block = FACTOR × the mean square of the entries of its gradients, those that the curvature is
    /// computed from [default: 0.1].
    #[arg(long, value_name = "FACTOR", allow_hyphen_values = true, display_order = 10)]
    pub damping: Option<f64>,
    /// λ of every block, in units of squared gradients.
    #[arg(
        long,
        value_name = "LAMBDA",
        allow_hyphen_values = true,
        conflicts_with = "damping",
        help_heading = "Method"
    )]
    pub damping_absolute: Option<f64>,
    /// One matrix per block, or one matrix over all blocks.
    #[arg(long, value_enum, default_value_t, help_heading = "Method")]
    pub structure: StructureArg,
    /// hyperinf: divide by the length of the summed side, or not [default: mean].
    #[arg(long, value_enum, help_heading = "Method")]
    pub gfim_scale: Option<ScaleArg>,
    /// hyperinf, hyperinf-authors: the side of a block to sum over [default: short; of a square block the columns].
    #[arg(long, value_enum, help_heading = "Method")]
    pub gfim_side: Option<SideArg>,
    /// Optional projection, applied before scoring.
    #[command(flatten)]
    pub project: ProjectArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Optional projection of the gradients, applied before scoring.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ProjectArgs {
    /// Project every block's gradients on RANK directions of its rows and RANK of its columns before scoring:
    /// approximate, in less memory and time. Shorter sides stay as they are.
    #[arg(
        long,
        value_name = "RANK",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Projection and seeds"
    )]
    pub project: Option<u32>,
    /// The directions [default: random].
    #[arg(long, value_enum, requires = "project", help_heading = "Projection and seeds")]
    pub project_on: Option<DirectionsArg>,
    /// The seed of all random choices: directions, draws of the estimate, queries [default: 0].
    #[arg(long, value_name = "SEED", help_heading = "Projection and seeds")]
    pub seed: Option<u64>,
    /// The seed of the random directions alone.
    #[arg(long, value_name = "SEED", requires = "project", hide = true)]
    pub project_seed: Option<u64>,
}

impl ProjectArgs {
    /// Fails if `--seed` is given but nothing is drawn.
    pub(crate) fn check_seed(&self, other_draws: bool) -> Result<(), CliError> {
        let random = self.project.is_some() && self.project_on.unwrap_or_default() == DirectionsArg::Random;
        if self.seed.is_none() || random || other_draws {
            return Ok(());
        }
        let reason =
            "neither a random --project, nor draws of an estimate, nor --uncertainty over queries is asked for";
        Err(Usage::Combination { first: "--seed".into(), second: "a run without random choices", reason }.into())
    }
}

/// The directions of a projection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DirectionsArg {
    /// Gaussian numbers: inner products are kept on average.
    #[default]
    Random,
    /// The directions of each side with most of the training gradients' squared norm.
    Principal,
}

/// The name of a [`RankBy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RankByArg {
    /// The most helpful first.
    #[default]
    Score,
    /// The most influential first, helpful or harmful.
    Magnitude,
}

impl From<RankByArg> for RankBy {
    fn from(arg: RankByArg) -> Self {
        match arg {
            RankByArg::Score => Self::Score,
            RankByArg::Magnitude => Self::Magnitude,
        }
    }
}

/// The name of a [`QueryMode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueryModeArg {
    /// One row of scores per query.
    #[default]
    Each,
    /// One row for the mean query gradient.
    Mean,
}

/// The name of a [`Normalisation`]; `x` is a preconditioned query gradient, `g` a training gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NormaliseArg {
    /// No normalisation.
    None,
    /// The norm of g: samples with large gradients do not dominate.
    L2,
    /// The norms of x and g: from -1 to 1.
    Cosine,
    /// The root of the sample's influence on itself (ℓ-RelatIF).
    LRelatif,
    /// The norm of the preconditioned g (θ-RelatIF).
    ThetaRelatif,
}

/// Whether curvature is per block or over all blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum StructureArg {
    /// One matrix per block.
    #[default]
    PerBlock,
    /// One matrix over all blocks side by side.
    Merged,
}

/// The name of a [`Scale`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScaleArg {
    /// Divided by the length of the summed side: the trace equals the Fisher's.
    Mean,
    /// Not divided, as in the authors' program.
    Sum,
}

/// The name of a [`Side`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SideArg {
    /// The shorter side.
    Short,
    /// The rows.
    Rows,
    /// The columns.
    Cols,
}

impl From<QueryModeArg> for QueryMode {
    fn from(arg: QueryModeArg) -> Self {
        match arg {
            QueryModeArg::Each => Self::Each,
            QueryModeArg::Mean => Self::Mean,
        }
    }
}

impl From<NormaliseArg> for Normalisation {
    fn from(arg: NormaliseArg) -> Self {
        match arg {
            NormaliseArg::None => Self::None,
            NormaliseArg::L2 => Self::Gradient,
            NormaliseArg::Cosine => Self::Cosine,
            NormaliseArg::LRelatif => Self::LossRelatif,
            NormaliseArg::ThetaRelatif => Self::ThetaRelatif,
        }
    }
}

impl From<ScaleArg> for Scale {
    fn from(arg: ScaleArg) -> Self {
        match arg {
            ScaleArg::Mean => Self::Mean,
            ScaleArg::Sum => Self::Sum,
        }
    }
}

impl From<SideArg> for Side {
    fn from(arg: SideArg) -> Self {
        match arg {
            SideArg::Short => Self::Short,
            SideArg::Rows => Self::Rows,
            SideArg::Cols => Self::Cols,
        }
    }
}
