use std::path::PathBuf;

use clap::Args;

use super::{ColumnArgs, DeviceArgs, DiffusionArgs, LengthArgs, ModelArgs, PairArgs};

/// Arguments of `hyperinf evaluate`.
#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The folder of an adapter, ours or PEFT's; without one the model itself is evaluated.
    #[arg(long, value_name = "DIR", display_order = 2)]
    pub adapter: Option<PathBuf>,
    /// The rows: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE", display_order = 3)]
    pub data: PathBuf,
    /// Where to write what is predicted for each row: .csv, .jsonl or .parquet.
    ///
    /// Classifiers: id, label, predicted, probability, loss. Language models: id, tokens, loss.
    /// Diffusion models: id, loss. Pairs: id, margin, loss.
    #[arg(long, value_name = "FILE", display_order = 4)]
    pub output: Option<PathBuf>,
    /// Print all figures as JSON.
    #[arg(long, display_order = 12)]
    pub json: bool,
    /// Rows of a forward pass.
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(1..),
        display_order = 5
    )]
    pub batch_size: u32,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The loss of a diffusion model.
    #[command(flatten)]
    pub diffusion: DiffusionArgs,
    /// Rows that are pairs of answers.
    #[command(flatten)]
    pub pairs: PairArgs,
    /// How to read rows.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// How long texts may be.
    #[command(flatten)]
    pub length: LengthArgs,
}
