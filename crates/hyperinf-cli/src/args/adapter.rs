//! `hyperinf eval adapter`: ground truths of an adapter, by training it again.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use hyperinf::data::{Choosing, Question, Removals, Retraining};

use super::index::part;
use super::influence::AmountArg;
use super::{ColumnArgs, DeviceArgs, DiffusionArgs, LengthArgs, ModelArgs, PairArgs};
use crate::error::{CliError, Usage};

/// Arguments of `hyperinf eval adapter`.
#[derive(Debug, Args)]
pub(crate) struct AdapterArgs {
    /// The ground truth to compare scores with.
    #[command(subcommand)]
    pub truth: AdapterCommand,
}

/// The ground truths of an adapter.
#[derive(Debug, Subcommand)]
pub(crate) enum AdapterCommand {
    /// Linear datamodelling score: do summed scores predict the losses after training without random rows?
    ///
    /// Trains the adapter again without random rows, --subsets times, and correlates
    /// for each query the summed scores of the rows that stayed with the loss
    /// (Spearman; 1 = the order is predicted perfectly, 0 = not at all). Reports the
    /// mean over queries with 95 % bootstrap intervals over subsets and queries, and
    /// what another training would add. DIR gets
    ///   methods.csv   per method: the score, its intervals, bytes, residual
    ///   costs.csv     per method: seconds and bytes next to the score
    ///   losses.csv    the loss of every query after every training
    ///   methods.png, course.png, cost.png   the scores as bars, by the number of
    ///                 subsets, and against seconds
    ///   report.html   all of it on one page
    ///   summary.json  all but the losses, with the settings and inputs
    #[command(
        verbatim_doc_comment,
        after_help = super::examples::EVAL_ADAPTER,
        override_usage = super::examples::EVAL_ADAPTER_LDS
    )]
    Lds(AdapterLdsArgs),
    /// Leave-one-out: do scores predict the losses after training without one row?
    ///
    /// As lds, with trainings that each leave out another single row: the same files.
    #[command(after_help = super::examples::EVAL_ADAPTER, override_usage = super::examples::EVAL_ADAPTER_LOO)]
    Loo(AdapterLooArgs),
    /// Brittleness: does a query's loss rise after training without the rows that helped it most?
    ///
    /// For each method and query the adapter is trained again without the query's
    /// most helpful rows. DIR gets
    ///   methods.csv   per method: the mean rise of the queries' losses, its interval
    ///   changes.csv   the rise of every query
    ///   costs.csv     per method: seconds and bytes
    ///   changes.png, report.html, summary.json
    #[command(
        verbatim_doc_comment,
        after_help = super::examples::EVAL_ADAPTER,
        override_usage = super::examples::EVAL_ADAPTER_BRITTLENESS
    )]
    Brittleness(AdapterBrittlenessArgs),
    /// Selection: how does the loss change after training on the rows that a method would keep?
    ///
    /// Each method keeps its best rows for the mean of the first, third, fifth ...
    /// query, the adapter is trained on them alone, and the losses of the other
    /// queries are compared with those after training on all rows. The same files as
    /// brittleness.
    #[command(
        verbatim_doc_comment,
        after_help = super::examples::EVAL_ADAPTER,
        override_usage = super::examples::EVAL_ADAPTER_SELECTION
    )]
    Selection(AdapterSelectionArgs),
}

/// Arguments of `hyperinf eval adapter brittleness`.
#[derive(Debug, Args)]
pub(crate) struct AdapterBrittlenessArgs {
    /// The most helpful rows that a training leaves out.
    #[arg(long, value_name = "N", default_value_t = 5, display_order = 6)]
    pub remove: usize,
    /// Options shared by the ground truths of an adapter.
    #[command(flatten)]
    pub shared: RetrainArgs,
}

/// Arguments of `hyperinf eval adapter selection`.
#[derive(Debug, Args)]
pub(crate) struct AdapterSelectionArgs {
    /// The rows that each method keeps: a share as 50%, or a number of rows.
    #[arg(long, value_name = "AMOUNT", default_value = "50%", allow_hyphen_values = true, display_order = 6)]
    pub keep: AmountArg,
    /// Options shared by the ground truths of an adapter.
    #[command(flatten)]
    pub shared: RetrainArgs,
}

/// Arguments of `hyperinf eval adapter lds`.
#[derive(Debug, Args)]
pub(crate) struct AdapterLdsArgs {
    /// Trainings, each without other random rows.
    #[arg(long, value_name = "N", default_value_t = 100, display_order = 6)]
    pub subsets: usize,
    /// The rows that each training leaves out: a share as 50%, or a number of rows.
    #[arg(long, value_name = "AMOUNT", default_value = "50%", allow_hyphen_values = true, display_order = 7)]
    pub drop: AmountArg,
    /// Options shared by the ground truths of an adapter.
    #[command(flatten)]
    pub shared: RetrainArgs,
}

/// Arguments of `hyperinf eval adapter loo`.
#[derive(Debug, Args)]
pub(crate) struct AdapterLooArgs {
    /// Random rows to leave out, one at a time.
    #[arg(long, value_name = "N", default_value_t = 100, display_order = 6)]
    pub rows: usize,
    /// Options shared by the ground truths of an adapter.
    #[command(flatten)]
    pub shared: RetrainArgs,
}

/// Options shared by the ground truths of an adapter.
#[derive(Debug, Args)]
pub(crate) struct RetrainArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The folder of the adapter, trained with `hyperinf finetune --record`: its recording has the settings of the
    /// training.
    #[arg(long, value_name = "DIR", display_order = 2)]
    pub adapter: PathBuf,
    /// The rows that it was trained on: .jsonl, .csv, .tsv or .parquet.
    #[arg(long, value_name = "FILE", display_order = 3)]
    pub train: PathBuf,
    /// The rows whose losses are measured.
    #[arg(long, value_name = "FILE", display_order = 4)]
    pub query: PathBuf,
    /// The folder for the results; created if missing.
    #[arg(long, value_name = "DIR", display_order = 5)]
    pub out: PathBuf,
    /// What the trainings are to tell. same: the same training with weight 0 for the rows: same first parameters, seeds,
    /// order and steps. fresh: another training without the rows: fresh seeds and order, as many epochs.
    #[arg(long, value_name = "QUESTION", default_value = "same", value_parser = question(), display_order = 8)]
    pub question: Question,
    /// Trainings on each subset, for --question fresh.
    #[arg(long, value_name = "N", default_value_t = 1, display_order = 9)]
    pub repeats: usize,
    /// The folder that keeps the results of all trainings and the scores of all methods; none is computed twice
    /// [default: bank in the folder of --out].
    #[arg(long, value_name = "DIR", display_order = 10)]
    pub bank: Option<PathBuf>,
    /// Take part K of N of the trainings and nothing else: processes fill one bank at once. The command without it
    /// compares the methods.
    #[arg(long, value_name = "K/N", value_parser = part, display_order = 11)]
    pub part: Option<(usize, usize)>,
    /// Print the summary as JSON.
    #[arg(long, display_order = 12)]
    pub json: bool,
    /// Methods, separated by commas, as `hyperinf attribute` takes them: `all` for the methods of gradients at the end,
    /// `recorded` for those that follow the training, `baselines` for those without gradients.
    #[arg(long, value_name = "METHODS", default_value = "all,recorded,baselines", help_heading = "Method")]
    pub method: String,
    /// Judge every method with an inverse also with so many steps of refinement, as `hyperinf attribute --refine`.
    #[arg(long, value_name = "STEPS", help_heading = "Method")]
    pub refine: Option<usize>,
    /// Score gradients in the metric of AdamW's second moments, as `hyperinf attribute --metric`.
    #[arg(long, value_name = "FILE", help_heading = "Method")]
    pub metric: Option<PathBuf>,
    /// The damping, relative to each block's gradients.
    #[arg(long, value_name = "FACTOR", default_value_t = 0.1, allow_hyphen_values = true, help_heading = "Method")]
    pub damping: f64,
    /// Draws of labels per row, for the estimate `sampled`.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Method")]
    pub draws: usize,
    /// The seed of everything that is drawn here: rows, fresh seeds, labels, random scores.
    #[arg(long, value_name = "SEED", default_value_t = 0, help_heading = "Method")]
    pub seed: u64,
    /// Rows of a forward or backward pass.
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Method"
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

impl AdapterCommand {
    /// The name of the truth.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Lds(_) => "lds",
            Self::Loo(_) => "loo",
            Self::Brittleness(_) => "brittleness",
            Self::Selection(_) => "selection",
        }
    }

    /// The shared options.
    pub(crate) fn shared(&self) -> &RetrainArgs {
        match self {
            Self::Lds(args) => &args.shared,
            Self::Loo(args) => &args.shared,
            Self::Brittleness(args) => &args.shared,
            Self::Selection(args) => &args.shared,
        }
    }

    /// How methods choose rows, if trainings are without these.
    pub(crate) fn choosing(&self) -> Option<Choosing> {
        match self {
            Self::Lds(_) | Self::Loo(_) => None,
            Self::Brittleness(args) => Some(Choosing::MostHelpful(args.remove)),
            Self::Selection(args) => Some(Choosing::AllBut(args.keep.0)),
        }
    }

    /// The trainings; which rows they leave out is not known yet where methods choose them.
    pub(crate) fn retraining(&self) -> Result<Retraining, CliError> {
        let removals = match self {
            Self::Lds(args) => {
                super::at_least("--subsets", args.subsets, 2)?;
                Removals::Random { subsets: args.subsets, drop: args.drop.0 }
            }
            Self::Loo(args) => {
                super::at_least("--rows", args.rows, 2)?;
                Removals::Single { rows: args.rows }
            }
            Self::Brittleness(args) => {
                super::at_least("--remove", args.remove, 1)?;
                Removals::Given(Vec::new())
            }
            Self::Selection(_) => Removals::Given(Vec::new()),
        };
        let RetrainArgs { question, repeats, seed, out, bank, part, .. } = self.shared();
        super::at_least("--repeats", *repeats, 1)?;
        if *question == Question::Same && *repeats > 1 {
            let reason = "the same training has one seed: --question fresh has many";
            return Err(Usage::Combination { first: "--repeats".into(), second: "--question same", reason }.into());
        }
        let retraining = Retraining {
            question: *question,
            removals,
            repeats: *repeats,
            draw: *seed,
            bank: bank.clone().unwrap_or_else(|| out.join("bank")),
            part: *part,
        };
        retraining.validate()?;
        Ok(retraining)
    }
}

/// The questions by their names.
fn question() -> impl TypedValueParser<Value = Question> {
    PossibleValuesParser::new(Question::NAMES.map(|(name, _)| name))
        .map(|name| Question::named(&name).unwrap_or_default())
}
