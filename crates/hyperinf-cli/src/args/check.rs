use std::path::PathBuf;

use clap::Args;

use super::{ColumnArgs, DeviceArgs, LengthArgs, ModelArgs};

/// Arguments of `hyperinf check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The model, of which without an adapter only the tokenizer is loaded.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The folder of the adapter: its length limit counts, and its gradients of a few rows are checked.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// The rows: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Rows whose gradients are checked, with --adapter.
    #[arg(long, value_name = "ROWS", default_value_t = 4)]
    pub gradients: usize,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// How many rows to show; all are read.
    #[arg(long, value_name = "ROWS", default_value_t = 5)]
    pub rows: usize,
    /// How to read rows.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// How long texts may be.
    #[command(flatten)]
    pub length: LengthArgs,
}
