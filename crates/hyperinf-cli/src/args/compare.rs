use std::path::PathBuf;

use clap::Args;

use super::{QueryModeArg, ScoringArgs, SharedArgs};

/// What `hyperinf compare` takes.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Gradients of the training samples.
    #[arg(long, value_name = "FILE.safetensors")]
    pub train_gradients: PathBuf,
    /// Gradients of the queries.
    #[arg(long, value_name = "FILE.safetensors")]
    pub query_gradients: PathBuf,
    /// The methods, by name, with commas between them; `all` for every one that `hyperinf methods` lists.
    #[arg(long, value_name = "NAMES", default_value = "all", value_delimiter = ',')]
    pub methods: Vec<String>,
    /// Compare the scores of each query, and average, or those of the mean of the queries' gradients.
    #[arg(long, value_enum, default_value_t)]
    pub query_mode: QueryModeArg,
    /// The overlap is the share that two methods' K most helpful samples have in common
    /// [default: 10, or half of them if there are fewer than 20].
    #[arg(long, value_name = "K", verbatim_doc_comment)]
    pub top_k: Option<usize>,
    /// Leave out methods that would take more memory than this, by an estimate from the sizes; needs no
    /// more than is free [default: 80 % of the memory that is free].
    #[arg(long, value_name = "GIB", allow_hyphen_values = true, verbatim_doc_comment)]
    pub memory: Option<f64>,
    /// What all methods share.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// The folder for methods.csv, pairs.csv, spearman.png and summary.json; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "hyperinf-compare")]
    pub out: PathBuf,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// Fail, without output, if a method was left out or did not reach its tolerance.
    #[arg(long)]
    pub strict: bool,
}

impl CompareArgs {
    /// What `score` would take for one method.
    pub(crate) fn scoring(&self, method: &str) -> ScoringArgs {
        ScoringArgs { method: method.to_owned(), shared: self.shared.clone(), ..ScoringArgs::default() }
    }
}
