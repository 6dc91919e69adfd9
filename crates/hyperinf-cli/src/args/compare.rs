use std::path::PathBuf;

use clap::Args;

use super::{QueryModeArg, ScoringArgs, SharedArgs};

/// Arguments of `hyperinf compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Gradients of the training samples.
    #[arg(long, value_name = "FILE.safetensors", display_order = 1)]
    pub train_gradients: PathBuf,
    /// Gradients of the queries.
    #[arg(long, value_name = "FILE.safetensors", display_order = 2)]
    pub query_gradients: PathBuf,
    /// The methods, separated by commas, each as for `hyperinf score --method`; `all` for every one that
    /// `hyperinf methods` lists.
    #[arg(long, value_name = "METHODS", default_value = "all", value_delimiter = ',', display_order = 3)]
    pub methods: Vec<String>,
    /// Compare the scores of each query and average, or the scores of the mean query gradient.
    #[arg(long, value_enum, default_value_t, help_heading = "Comparison")]
    pub query_mode: QueryModeArg,
    /// The overlap is the share that two methods' K most helpful samples have in common
    /// [default: 10, or half of them if there are fewer than 20].
    #[arg(long, value_name = "K", help_heading = "Comparison")]
    pub top_k: Option<usize>,
    /// Leave out methods that need more memory than this, estimated from the sizes
    /// [default: 80 % of the free memory].
    #[arg(long, value_name = "GIB", allow_hyphen_values = true, help_heading = "Comparison")]
    pub memory: Option<f64>,
    /// Options shared by all methods.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// The folder for methods.csv, pairs.csv, spearman.png and summary.json; created if missing.
    #[arg(long, value_name = "DIR", default_value = "hyperinf-compare", display_order = 4)]
    pub out: PathBuf,
    /// Print the summary as JSON.
    #[arg(long, display_order = 12)]
    pub json: bool,
    /// Fail, without output, if a method was left out or did not reach its tolerance.
    #[arg(long, help_heading = "Comparison")]
    pub strict: bool,
}

impl CompareArgs {
    /// The arguments of `score`, except the method.
    pub(crate) fn scoring(&self) -> ScoringArgs {
        ScoringArgs { shared: self.shared.clone(), ..ScoringArgs::default() }
    }
}
