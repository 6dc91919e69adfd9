use clap::Args;

/// Ids for the rows of gradient files.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct IdArgs {
    /// The ids of the training samples: a text file with one per line, or the column `id` of a data set, or another
    /// of its columns, as in train.jsonl:name.
    #[arg(long, value_name = "FILE[:COLUMN]", help_heading = "Ids")]
    pub train_ids: Option<String>,
    /// The ids of the queries, in the same way.
    #[arg(long, value_name = "FILE[:COLUMN]", help_heading = "Ids")]
    pub query_ids: Option<String>,
}
