use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use hyperinf::data::Duplicates;
use hyperinf::models::{RecordedParts, TimestepsAs};
use hyperinf::scoring::{Amount, Budget, Over};
use hyperinf::store::SCORE_FORMATS;

use super::diffusion::{DiffusionArgs, timesteps_as};
use super::{BatchSizeArg, ColumnArgs, EstimateArgs, LengthArgs, ModelArgs, PairArgs, QueryModeArg, ScoringArgs};

/// Arguments of all commands that score rows.
#[derive(Debug, Args)]
pub(crate) struct InfluenceArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The folder of the adapter, ours or PEFT's; for a diffusion model also a LoRA file of diffusers or kohya.
    #[arg(long, value_name = "DIR", display_order = 2)]
    pub adapter: Option<PathBuf>,
    /// The training rows: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE", display_order = 3)]
    pub train: PathBuf,
    /// The folder for the results; created if missing.
    #[arg(long, value_name = "DIR", display_order = 5)]
    pub out: PathBuf,
    /// Rows of a backward pass; auto measures which size is fastest and fits into memory.
    #[arg(long, value_name = "ROWS|auto", default_value = "16", help_heading = "Gradients")]
    pub batch_size: BatchSizeArg,
    /// The layers whose gradients are taken: those of the adapter, the connector of a vision-language model, the last
    /// layer of a language model, or the connector and the adapter.
    #[arg(long, value_name = "LAYERS", default_value = "adapters", value_parser = layers(), help_heading = "Gradients")]
    pub layers: RecordedParts,
    /// Only blocks whose names match: `*` stands for any characters, a comma for "or".
    #[arg(long, value_name = "PATTERN", help_heading = "Gradients")]
    pub blocks: Option<String>,
    /// Take the training gradients from an index, which is built if it is missing: another query then costs the queries
    /// alone.
    #[arg(long, value_name = "DIR", help_heading = "Gradients")]
    pub index: Option<PathBuf>,
    /// Do not keep the method's curvature in the index, for the next query.
    #[arg(long, requires = "index", help_heading = "Gradients")]
    pub keep_nothing: bool,
    /// Keep the gradients in DIR: for the next method or command there, which need not run the model again, and for
    /// `hyperinf score`.
    #[arg(long, display_order = 8)]
    pub keep_gradients: bool,
    /// How to score.
    #[command(flatten)]
    pub scoring: ScoringArgs,
    /// With --method unrolled: train and differentiate again without a share of the rows, to show how far the scores
    /// reach: how the scores of the others change, and whether the loss changes as foretold [share: 0.05].
    #[arg(
        long,
        value_name = "SHARE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "0.05",
        value_parser = share,
        help_heading = "Method"
    )]
    pub smoothness: Option<f64>,
    /// Score in the metric of AdamW's second moments: the adapter's folder or the recording in it, or an optimizer's
    /// state as safetensors. Every entry of a gradient is divided by the root of √v̂ + ε.
    #[arg(long, value_name = "FILE", help_heading = "Method")]
    pub metric: Option<PathBuf>,
    /// Refine the inverse of each block: so many steps of conjugate gradients towards the inverse of the damped
    /// Gauss-Newton matrix over all blocks. A step takes four passes over the training rows for each query.
    #[arg(long, value_name = "STEPS", help_heading = "Method")]
    pub refine: Option<usize>,
    /// With --refine: the matrix of ROWS training rows, drawn from --seed [default: all]. See --refine-fresh.
    #[arg(
        long,
        value_name = "ROWS",
        requires = "refine",
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Method"
    )]
    pub refine_sample: Option<u32>,
    /// With --refine-sample: draw new rows for each step. Steps get shorter, and the result is the mean over the last
    /// half of them. Without it the result is the inverse of the drawn rows' matrix, which may be far from that of all
    /// rows unless there are many more of them than parameters.
    #[arg(long, requires = "refine_sample", help_heading = "Method")]
    pub refine_fresh: bool,
    /// The estimate of the curvature.
    #[command(flatten)]
    pub curvature: EstimateArgs,
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
}

/// Arguments of `hyperinf attribute`.
#[derive(Debug, Args)]
pub(crate) struct AttributeArgs {
    /// Arguments shared with other commands.
    #[command(flatten)]
    pub influence: InfluenceArgs,
    /// The query rows: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE", display_order = 4)]
    pub query: PathBuf,
    /// Further adapters of the same model and training rows, separated by commas: scores are the mean over all. Trainings
    /// of other seeds vary more than most scores.
    #[arg(long, value_name = "DIRS", value_delimiter = ',', help_heading = "Scores")]
    pub ensemble: Vec<PathBuf>,
    /// One row of scores per query, or one row for the mean of the queries' gradients.
    ///
    /// [default: each; with --uncertainty: mean]
    #[arg(long, value_enum, help_heading = "Scores")]
    pub query_mode: Option<QueryModeArg>,
    /// Rows at either end of each ranking in topk.jsonl; a contact sheet shows five.
    #[arg(long, value_name = "ROWS", default_value_t = 20, display_order = 6)]
    pub top_k: usize,
    /// Also write positions.jsonl: the score of each token of the rows in topk.jsonl, with the tokens' texts.
    ///
    /// The model runs over these rows once more. Tokens have the parts of the row's gradient that their
    /// positions contribute.
    #[arg(long, help_heading = "Scores")]
    pub positions: bool,
    /// Error bars over SEEDS seeds: of a random --project or, without one, of the draws of --estimate.
    ///
    /// For the mean query. Scores are the means over the seeds; outputs get the columns score_std
    /// (standard deviation), low and high (the smallest and the largest).
    #[arg(long, value_name = "SEEDS", help_heading = "Scores")]
    pub uncertainty: Option<usize>,
    /// The format of the scores.
    #[arg(long, default_value = "parquet", value_parser = formats(), display_order = 7)]
    pub format: String,
}

impl AttributeArgs {
    /// Whether queries are scored one by one.
    pub(crate) fn mode(&self) -> QueryModeArg {
        let usual = if self.uncertainty.is_some() { QueryModeArg::Mean } else { QueryModeArg::Each };
        self.query_mode.unwrap_or(usual)
    }
}

/// Arguments of `hyperinf detect`.
#[derive(Debug, Args)]
pub(crate) struct DetectArgs {
    /// Arguments shared with other commands.
    #[command(flatten)]
    pub influence: InfluenceArgs,
    /// Rows with correct labels: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE", display_order = 4)]
    pub validation: PathBuf,
    /// Write the data set without the most suspicious rows: a share as 5%, or a number of rows.
    #[arg(long, value_name = "AMOUNT", allow_hyphen_values = true, display_order = 6)]
    pub remove: Option<AmountArg>,
}

/// Arguments of `hyperinf select`.
#[derive(Debug, Args)]
pub(crate) struct SelectArgs {
    /// Arguments shared with other commands.
    #[command(flatten)]
    pub influence: InfluenceArgs,
    /// Rows of the target task: .jsonl, .csv, .tsv or .parquet; once per task.
    #[arg(long, value_name = "FILE", display_order = 4, required = true)]
    pub validation: Vec<PathBuf>,
    /// How much to keep: a share of the rows as 20%, a number of rows, or of tokens as 50000tokens.
    #[arg(long, value_name = "AMOUNT", allow_hyphen_values = true, display_order = 6)]
    pub keep: KeepArg,
    /// Rows that help together: what selected rows already teach counts no more. STRENGTH multiplies the interaction.
    #[arg(
        long,
        value_name = "STRENGTH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        display_order = 7
    )]
    pub diverse: Option<f64>,
    /// Of rows that are the same to the model keep one; with COSINE also of rows with gradients that near.
    #[arg(
        long,
        value_name = "COSINE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "equal",
        help_heading = "Selection"
    )]
    pub drop_duplicates: Option<DuplicatesArg>,
    /// At most ROWS rows of a label, or of a value of --group-column.
    #[arg(long, value_name = "ROWS", help_heading = "Selection")]
    pub per_group: Option<usize>,
    /// The column of the groups [default: the label].
    #[arg(long, value_name = "COLUMN", requires = "per_group", help_heading = "Selection")]
    pub group_column: Option<String>,
    /// How the scores for several tasks become one: their mean, the highest, or the lowest.
    #[arg(long, value_name = "OVER", default_value = "mean", value_parser = over(), help_heading = "Selection")]
    pub targets: Over,
    /// Rows with the highest scores whose gradients are compared with each other, for --diverse and near duplicates
    /// [default: 4 times the kept rows, at least 1000, from 8000 on a quarter more than kept].
    #[arg(long, value_name = "ROWS", help_heading = "Selection")]
    pub pool: Option<usize>,
}

/// How the scores for several targets become one, by name.
fn over() -> impl TypedValueParser<Value = Over> {
    let named = |name: &str| Over::NAMES.into_iter().find(|(known, _)| *known == name);
    PossibleValuesParser::new(Over::NAMES.map(|(name, _)| name))
        .map(move |name| named(&name).map(|(_, over)| over).unwrap_or_default())
}

/// Rows that count as [`Duplicates`]: `equal`, or a cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DuplicatesArg(pub Duplicates);

impl FromStr for DuplicatesArg {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let cosine = || typed.parse().ok().filter(|cosine| *cosine > 0.0 && *cosine <= 1.0);
        match typed {
            "equal" => Ok(Self(Duplicates::Equal)),
            _ => cosine().map(|c| Self(Duplicates::Near(c))).ok_or_else(|| "a cosine is above 0 and at most 1".into()),
        }
    }
}

/// A [`Budget`] of a selection: `5%`, `40` or `50000tokens`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct KeepArg(pub Budget);

impl FromStr for KeepArg {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let Some(tokens) = typed.strip_suffix("tokens") else {
            return typed.parse::<AmountArg>().map(|AmountArg(amount)| Self(amount.into()));
        };
        let tokens = tokens.trim().parse::<usize>().ok().filter(|&tokens| tokens > 0);
        tokens.map(|tokens| Self(Budget::Length(tokens))).ok_or_else(|| "write tokens as 50000tokens".into())
    }
}

/// The choices of layers by their names.
pub(super) fn layers() -> impl TypedValueParser<Value = RecordedParts> {
    let named = |name: &str| RecordedParts::NAMES.into_iter().find(|(known, _)| *known == name);
    PossibleValuesParser::new(RecordedParts::NAMES.map(|(name, _)| name))
        .map(move |name| named(&name).map(|(_, parts)| parts).unwrap_or_default())
}

/// A share above 0 and below 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("a share is above 0 and below 1".into()),
    }
}

/// The formats of scores by the endings of their files.
fn formats() -> PossibleValuesParser {
    PossibleValuesParser::new(SCORE_FORMATS.iter().map(|format| format.ending))
}

/// An [`Amount`] of rows: `5%` or `40`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AmountArg(pub Amount);

impl FromStr for AmountArg {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        if let Some(percent) = typed.strip_suffix('%') {
            let percent = percent.trim().parse::<f64>().ok().filter(|p| *p > 0.0 && *p <= 100.0);
            return percent
                .map(|p| Self(Amount::Share(p / 100.0)))
                .ok_or_else(|| "a share is above 0% and at most 100%".into());
        }
        let count = typed.parse::<usize>().ok().filter(|&count| count > 0);
        count
            .map(|count| Self(Amount::Count(count)))
            .ok_or_else(|| "write a share as 5%, or a whole number of rows".into())
    }
}
