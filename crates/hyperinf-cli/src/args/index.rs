use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use hyperinf::models::{RecordedParts, TimestepsAs};
use hyperinf::store::StoredType;

use super::diffusion::{DiffusionArgs, timesteps_as};
use super::influence::layers;
use super::texts::known;
use super::{BatchSizeArg, ColumnArgs, DeviceArgs, LengthArgs, ModelArgs, PairArgs, QueryModeArg, ScoringArgs};

/// Arguments of `hyperinf index`.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The folder of the adapter, ours or PEFT's; for a diffusion model also a LoRA file of diffusers or kohya.
    #[arg(long, value_name = "DIR", display_order = 2)]
    pub adapter: Option<PathBuf>,
    /// The training rows: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE", display_order = 3)]
    pub train: PathBuf,
    /// The folder of the index; created if missing.
    #[arg(long, value_name = "DIR", display_order = 4)]
    pub out: PathBuf,
    /// Add the rows of another file to an index.
    #[arg(long, display_order = 5)]
    pub append: bool,
    /// Take only the gradients of part K of N of the leaves, for an array of jobs that know nothing of each other. The
    /// same command without it finds them, and finishes the index.
    #[arg(long, value_name = "K/N", value_parser = part, display_order = 5)]
    pub part: Option<(usize, usize)>,
    /// The type of the numbers. bf16 halves the index and keeps 8 bits of precision; f16 keeps 11, but loses gradients
    /// below 6e-8.
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = dtypes(), display_order = 6)]
    pub dtype: StoredType,
    /// Project every block's gradients on RANK random directions of its rows and RANK of its columns as they are taken,
    /// so that none of the block's size is ever formed (LoGra). Shorter sides stay as they are.
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u32).range(1..), display_order = 7)]
    pub project: Option<u32>,
    /// The seed of the directions.
    #[arg(long, value_name = "SEED", default_value_t = 0, requires = "project", display_order = 8)]
    pub seed: u64,
    /// Rows of a backward pass; auto takes that of the index that is there, or measures which size is fastest and fits
    /// into memory.
    #[arg(long, value_name = "ROWS|auto", default_value = "16", help_heading = "Gradients")]
    pub batch_size: BatchSizeArg,
    /// Batches of a leaf, which is one file of the index, and what is computed again if that is damaged.
    #[arg(long, value_name = "BATCHES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Gradients")]
    pub leaf_batches: u32,
    /// The layers whose gradients are taken: those of the adapter, the connector of a vision-language model, the last
    /// layer of a language model, or the connector and the adapter.
    #[arg(long, value_name = "LAYERS", default_value = "adapters", value_parser = layers(), help_heading = "Gradients")]
    pub layers: RecordedParts,
    /// Only blocks whose names match: `*` stands for any characters, a comma for "or".
    #[arg(long, value_name = "PATTERN", help_heading = "Gradients")]
    pub blocks: Option<String>,
    /// The loss of a diffusion model.
    #[command(flatten)]
    pub diffusion: DiffusionArgs,
    /// Sum the gradients of the timesteps, or keep them side by side, so that products match timesteps (DataInf)
    /// [default: sum].
    #[arg(long, value_name = "AS", value_parser = timesteps_as(), help_heading = "Diffusion")]
    pub timesteps_as: Option<TimestepsAs>,
    /// Rows that are pairs of answers.
    #[command(flatten)]
    pub pairs: PairArgs,
    /// How to read rows.
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// How long texts may be.
    #[command(flatten)]
    pub length: LengthArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the summary as JSON.
    #[arg(long, display_order = 12)]
    pub json: bool,
}

/// Where the model of an index is now.
#[derive(Debug, Args)]
pub(crate) struct MovedArgs {
    /// The model, if it is elsewhere than when the index was built.
    #[arg(long, value_name = "MODEL", value_parser = known, help_heading = "Model")]
    pub model: Option<String>,
    /// The adapter, if it is elsewhere.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// The tokenizer, if it is elsewhere.
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub tokenizer: Option<PathBuf>,
}

/// Arguments of `hyperinf query`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("asked").required(true).args(["query", "text", "prompt"]))]
pub(crate) struct QueryArgs {
    /// The index.
    #[arg(long, value_name = "DIR", display_order = 1)]
    pub index: PathBuf,
    /// The query rows: .jsonl, .csv, .tsv or .parquet; or - for rows of standard input, a JSON object a line, each
    /// answered by a JSON object a line before the next one is read.
    #[arg(long, value_name = "FILE", display_order = 2)]
    pub query: Option<PathBuf>,
    /// One query: a text, for classifiers with its --label.
    #[arg(long, value_name = "TEXT", display_order = 3)]
    pub text: Option<String>,
    /// The label of --text.
    #[arg(long, value_name = "LABEL", requires = "text", display_order = 3)]
    pub label: Option<String>,
    /// One query: a prompt with its --completion.
    #[arg(long, value_name = "TEXT", requires = "completion", display_order = 4)]
    pub prompt: Option<String>,
    /// The completion of --prompt, which alone is part of the loss.
    #[arg(long, value_name = "TEXT", requires = "prompt", display_order = 4)]
    pub completion: Option<String>,
    /// Rows at either end of each ranking.
    #[arg(long, value_name = "ROWS", default_value_t = 10, display_order = 5)]
    pub top_k: usize,
    /// Also write all scores: .safetensors, .parquet, .csv or .jsonl.
    #[arg(long, value_name = "FILE", display_order = 6)]
    pub output: Option<PathBuf>,
    /// One row of scores per query, or one row for the mean of the queries' gradients.
    #[arg(long, value_enum, default_value_t, help_heading = "Scores")]
    pub query_mode: QueryModeArg,
    /// Leave the index as it is: curvature and sketches that were computed are not kept in it.
    #[arg(long, help_heading = "Scores")]
    pub keep_nothing: bool,
    /// Read and score every row, also those that by the index's sketches cannot be at an end of the ranking.
    #[arg(long, help_heading = "Scores")]
    pub every_row: bool,
    /// The column of the query rows' ids [default: rows are numbered from 0].
    #[arg(long, value_name = "COLUMN", help_heading = "Scores")]
    pub id_column: Option<String>,
    #[command(flatten)]
    pub moved: MovedArgs,
    /// How to score.
    #[command(flatten)]
    pub scoring: ScoringArgs,
}

/// Arguments of `hyperinf verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The index.
    #[arg(value_name = "DIR")]
    pub index: PathBuf,
    /// Compute damaged leaves again, from the model and the rows.
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub moved: MovedArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print the summary as JSON.
    #[arg(long, display_order = 12)]
    pub json: bool,
}

/// Arguments of `hyperinf convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// Gradients: .safetensors, .npy, .npz (numpy.savez), an index or another folder of shards with index.json, or a
    /// folder of bergson's (gradients.bin, info.json).
    #[arg(value_name = "FROM")]
    pub from: PathBuf,
    /// The file to write: .safetensors, or .npy with all blocks side by side and their columns in FILE.npy.json.
    #[arg(value_name = "FILE")]
    pub to: PathBuf,
    /// The type of the numbers [default: as they are].
    #[arg(long, value_name = "TYPE", value_parser = dtypes())]
    pub dtype: Option<StoredType>,
}

/// A part of several: `2/8`.
pub(super) fn part(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    parts.filter(|(part, of)| (1..=*of).contains(part)).ok_or_else(|| "a part is K/N with K from 1 to N, as 2/8".into())
}

/// The types of numbers by their words.
fn dtypes() -> impl TypedValueParser<Value = StoredType> {
    let named = |name: &str| StoredType::NAMES.into_iter().find(|(known, _)| *known == name);
    PossibleValuesParser::new(StoredType::NAMES.map(|(name, _)| name))
        .map(move |name| named(&name).map(|(_, stored)| stored).unwrap_or_default())
}
