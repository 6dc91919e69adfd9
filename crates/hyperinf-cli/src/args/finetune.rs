use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{BatchSizeArg, ColumnArgs, DeviceArgs, DiffusionArgs, LengthArgs, ModelArgs, PairArgs};

/// What takes the steps of a fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimizerArg {
    /// AdamW.
    Adamw,
    /// Gradient descent.
    Sgd,
}

/// Arguments of `hyperinf finetune`.
#[derive(Debug, Args)]
pub(crate) struct FinetuneArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The training rows: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE", display_order = 2)]
    pub train: PathBuf,
    /// Rows that are evaluated after every epoch: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE", display_order = 3)]
    pub validation: Option<PathBuf>,
    /// The folder for the adapter; created if missing.
    #[arg(long, value_name = "DIR", display_order = 4)]
    pub out: PathBuf,
    /// Replace an adapter or checkpoints in the folder.
    #[arg(long, conflicts_with = "resume", display_order = 7)]
    pub overwrite: bool,

    /// The rank of the adapters.
    #[arg(long, value_name = "RANK", default_value_t = 8, help_heading = "LoRA")]
    pub lora_rank: usize,
    /// Adapters are scaled by α/rank, with --rslora by α/√rank.
    #[arg(long, value_name = "ALPHA", default_value_t = 16.0, help_heading = "LoRA")]
    pub lora_alpha: f64,
    /// The dropout of an adapter's inputs during training.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, help_heading = "LoRA")]
    pub lora_dropout: f64,
    /// Rank-stabilised scaling.
    #[arg(long, help_heading = "LoRA")]
    pub rslora: bool,
    /// Layers that get an adapter, by the ends of their names, or all-linear [default: query,value for encoders,
    /// q_proj,v_proj for decoders, to_q,to_k,to_v,to_out.0 for diffusion models].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "LoRA")]
    pub lora_target: Vec<String>,

    /// Passes over the training rows [default: 3; diffusion models: 10].
    #[arg(long, display_order = 5)]
    pub epochs: Option<usize>,
    /// The peak learning rate [default: 2e-3 for encoders, 2e-4 for decoders, 5e-5 for pairs, 1e-3 for
    /// diffusion models].
    #[arg(long, value_name = "RATE", display_order = 6)]
    pub learning_rate: Option<f64>,
    /// Rows per step [default: 16 for encoders, 32 for decoders]; auto: the default, in passes of the size that is
    /// fastest by a measurement and fits into memory (--micro-batch auto).
    #[arg(long, value_name = "ROWS|auto", help_heading = "Training")]
    pub batch_size: Option<BatchSizeArg>,
    /// Batch rows of any length together: more padding, but no batches of one kind of row.
    #[arg(long, help_heading = "Training")]
    pub any_length: bool,
    /// Rows of a forward and backward pass; a step sums several [default: the whole batch]; auto measures which size is
    /// fastest and fits into memory.
    #[arg(long, value_name = "ROWS|auto", help_heading = "Training")]
    pub micro_batch: Option<BatchSizeArg>,
    /// The share of the steps in which the learning rate rises; afterwards it falls to zero.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, help_heading = "Training")]
    pub warmup: f64,
    /// What takes the steps: AdamW, or gradient descent with a momentum.
    #[arg(long, value_enum, default_value_t = OptimizerArg::Adamw, help_heading = "Training")]
    pub optimizer: OptimizerArg,
    /// With --optimizer sgd: the share of the velocity that a step keeps [default: 0.9].
    #[arg(long, value_name = "SHARE", help_heading = "Training")]
    pub momentum: Option<f64>,
    /// Decoupled weight decay.
    #[arg(long, value_name = "DECAY", default_value_t = 0.01, help_heading = "Training")]
    pub weight_decay: f32,
    /// The seed of the adapters' initial weights and of the order of the rows.
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub seed: u64,
    /// Write a checkpoint every STEPS steps, for --resume.
    #[arg(long, value_name = "STEPS", help_heading = "Training")]
    pub checkpoint_every: Option<usize>,
    /// Record the training next to the adapter, for --method unrolled: states every STEPS steps of --checkpoint-every
    /// [default: the root of the number of steps].
    #[arg(long, help_heading = "Training")]
    pub record: bool,
    /// Resume from the checkpoints of an interrupted run of the same command.
    #[arg(long, display_order = 8)]
    pub resume: bool,
    /// Stop after EPOCHS epochs without a lower validation loss, and keep the best adapter.
    #[arg(long, value_name = "EPOCHS", requires = "validation", help_heading = "Training")]
    pub patience: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,

    /// The loss of a diffusion model; training draws its own timesteps and noise.
    #[command(flatten)]
    pub diffusion: DiffusionArgs,
    /// The share of captions that training leaves out [default: 0.1].
    #[arg(long, value_name = "SHARE", help_heading = "Diffusion")]
    pub prompt_dropout: Option<f64>,

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
