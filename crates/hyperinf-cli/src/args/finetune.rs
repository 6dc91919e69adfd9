use std::path::PathBuf;

use clap::Args;

use super::{ColumnArgs, LengthArgs, ModelArgs};

/// What `hyperinf finetune` takes.
#[derive(Debug, Args)]
pub struct FinetuneArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The training rows: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE")]
    pub train: PathBuf,
    /// Rows to judge by after every epoch: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE")]
    pub validation: Option<PathBuf>,
    /// The folder for the adapter; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace an adapter or checkpoints that are in the folder already.
    #[arg(long, conflicts_with = "resume")]
    pub overwrite: bool,

    /// The rank of the adapters.
    #[arg(long, value_name = "RANK", default_value_t = 8, help_heading = "LoRA")]
    pub lora_rank: usize,
    /// Adapters count α/rank times, with --rslora α/√rank times.
    #[arg(long, value_name = "ALPHA", default_value_t = 16.0, help_heading = "LoRA")]
    pub lora_alpha: f64,
    /// The share of an adapter's inputs that is left out at random while training.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, help_heading = "LoRA")]
    pub lora_dropout: f64,
    /// Rank-stabilised scaling.
    #[arg(long, help_heading = "LoRA")]
    pub rslora: bool,
    /// Layers that get an adapter, by the ends of their names [default: query,value for encoders, q_proj,v_proj for
    /// decoders]; all-linear is all of them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "LoRA")]
    pub lora_target: Vec<String>,

    /// Passes over the training rows.
    #[arg(long, default_value_t = 3, help_heading = "Training")]
    pub epochs: usize,
    /// The highest learning rate.
    #[arg(long, value_name = "RATE", default_value_t = 2e-4, help_heading = "Training")]
    pub learning_rate: f64,
    /// Rows per step.
    #[arg(long, value_name = "ROWS", default_value_t = 32, help_heading = "Training")]
    pub batch_size: usize,
    /// Batches of any rows, instead of rows of like length: more padding, but no batches of one kind of row.
    #[arg(long, help_heading = "Training")]
    pub any_length: bool,
    /// Rows that are computed at once; a step sums several such parts [default: the whole batch].
    #[arg(long, value_name = "ROWS", help_heading = "Training")]
    pub micro_batch: Option<usize>,
    /// The share of the steps in which the learning rate rises; then it falls to zero.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, help_heading = "Training")]
    pub warmup: f64,
    /// Decoupled weight decay.
    #[arg(long, value_name = "DECAY", default_value_t = 0.01, help_heading = "Training")]
    pub weight_decay: f32,
    /// Decides how adapters begin and the order of the rows.
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub seed: u64,
    /// Save the state every STEPS steps, for --resume.
    #[arg(long, value_name = "STEPS", help_heading = "Training")]
    pub checkpoint_every: Option<usize>,
    /// Go on from the state that an earlier run of the same command left in the folder.
    #[arg(long, help_heading = "Training")]
    pub resume: bool,
    /// Stop after EPOCHS epochs without a lower validation loss, and keep the best.
    #[arg(long, value_name = "EPOCHS", requires = "validation", help_heading = "Training")]
    pub patience: Option<usize>,
    /// Where to compute: flex, ndarray, cuda:0, … [default: the first that was compiled in].
    #[arg(long, value_name = "DEVICE", help_heading = "Training")]
    pub device: Option<String>,

    /// How to read rows.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// How long texts may be.
    #[command(flatten)]
    pub length: LengthArgs,
}
