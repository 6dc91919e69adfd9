use std::path::PathBuf;

use clap::Args;

use super::{
    DeviceArgs, DirectionsArg, IdArgs, ProjectArgs, QueryModeArg, ScaleArg, ScoringArgs, SharedArgs, SideArg,
    StructureArg,
};

/// Arguments of `hyperinf sweep`.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// Gradients of the training samples.
    #[arg(long, value_name = "FILE.safetensors", display_order = 1)]
    pub train_gradients: PathBuf,
    /// Gradients of the queries.
    #[arg(long, value_name = "FILE.safetensors", display_order = 2)]
    pub query_gradients: PathBuf,
    /// The method, as for `hyperinf score --method`.
    #[arg(long, value_name = "METHOD", default_value = "hyperinf", display_order = 3)]
    pub method: String,
    /// The dampings, separated by commas: λ of each block = FACTOR × the mean square of its
    /// training gradients' entries.
    #[arg(
        long,
        alias = "dampings",
        value_name = "FACTORS",
        value_delimiter = ',',
        allow_hyphen_values = true,
        default_value = "0.001,0.003,0.01,0.03,0.1,0.3,1,3,10",
        display_order = 4
    )]
    pub damping: Vec<f64>,
    /// Absolute dampings, separated by commas: λ of every block, in units of squared gradients.
    #[arg(
        long,
        value_name = "LAMBDAS",
        value_delimiter = ',',
        allow_hyphen_values = true,
        conflicts_with_all = ["damping", "absolute"],
        display_order = 5
    )]
    pub damping_absolute: Vec<f64>,
    /// The values of --damping are absolute.
    #[arg(long, hide = true)]
    pub absolute: bool,
    /// hyperinf, hyperinf-authors: the sides to sum over, separated by commas.
    #[arg(long, value_enum, value_name = "SIDES", value_delimiter = ',', help_heading = "Method")]
    pub sides: Vec<SideArg>,
    /// hyperinf: divide by the length of the summed side, or not [default: mean].
    #[arg(long, value_enum, help_heading = "Method")]
    pub gfim_scale: Option<ScaleArg>,
    /// Ranks of a projection, separated by commas: the number of directions that the rows and the columns of
    /// every block's gradients are projected on before scoring.
    #[arg(
        long,
        value_name = "RANKS",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Method"
    )]
    pub project: Vec<u32>,
    /// The directions [default: random].
    #[arg(long, value_enum, requires = "project", help_heading = "Method")]
    pub project_on: Option<DirectionsArg>,
    /// The seed of the random directions [default: 0].
    #[arg(long, alias = "project-seed", value_name = "SEED", requires = "project", help_heading = "Method")]
    pub seed: Option<u64>,
    /// Compare the scores of each query and average, or the scores of the mean query gradient.
    #[arg(long, value_enum, default_value_t, help_heading = "Comparison")]
    pub query_mode: QueryModeArg,
    /// One matrix per block, or one matrix over all blocks.
    #[arg(long, value_enum, default_value_t, help_heading = "Method")]
    pub structure: StructureArg,
    /// The overlap is the share that two rankings' K most helpful samples have in common
    /// [default: 10, or half of them if there are fewer than 20].
    #[arg(long, value_name = "K", help_heading = "Comparison")]
    pub top_k: Option<usize>,
    /// Neighbouring dampings whose rank correlation is at least this have one ranking.
    #[arg(
        long,
        value_name = "CORRELATION",
        default_value_t = 0.95,
        allow_hyphen_values = true,
        help_heading = "Comparison"
    )]
    pub stable: f64,
    /// A text file with the numbers of training samples that are known to be bad, from 0, one per line.
    ///
    /// The damping whose scores, averaged over the queries, are lowest on these samples (by AUC) is
    /// recommended; without them none is.
    #[arg(long, value_name = "FILE", display_order = 6)]
    pub known_bad: Option<PathBuf>,
    /// Ids for the rows of gradient files.
    #[command(flatten)]
    pub ids: IdArgs,
    /// Scores may take this much memory, estimated from the sizes [default: what the system grants].
    #[arg(long, value_name = "GIB", value_parser = super::scoring::gib, help_heading = "Method")]
    pub memory: Option<f64>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The folder for sweep.csv, scores.parquet, sweep.png, spearman.png and summary.json; created if
    /// missing.
    #[arg(long, value_name = "DIR", default_value = "hyperinf-sweep", display_order = 7)]
    pub out: PathBuf,
    /// Print the summary as JSON.
    #[arg(long, display_order = 9)]
    pub json: bool,
}

impl SweepArgs {
    /// The dampings as given, and whether they are absolute.
    pub(crate) fn values(&self) -> (&[f64], bool) {
        if self.damping_absolute.is_empty() { (&self.damping, self.absolute) } else { (&self.damping_absolute, true) }
    }

    /// The arguments of `score` for one side and one rank of a projection.
    pub(crate) fn scoring(&self, side: Option<SideArg>, rank: Option<u32>) -> ScoringArgs {
        let (project_on, seed) = (self.project_on, self.seed);
        let project = ProjectArgs { project: rank, project_on, seed, project_seed: None };
        let shared = SharedArgs {
            structure: self.structure,
            gfim_scale: self.gfim_scale,
            gfim_side: side,
            project,
            device: self.device.clone(),
            ..SharedArgs::default()
        };
        ScoringArgs { method: self.method.clone(), shared, ..ScoringArgs::default() }
    }
}
