//! The command line.

mod adapter;
mod check;
mod compare;
mod converge;
mod device;
mod diffusion;
mod estimate;
mod eval;
mod evaluate;
mod examples;
mod finetune;
mod generate;
mod groups;
mod ids;
mod index;
mod influence;
mod pairs;
mod report;
mod scoring;
mod sweep;
mod texts;
mod tools;
mod truths;
mod variants;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use adapter::{AdapterCommand, RetrainArgs};
pub(crate) use check::CheckArgs;
pub(crate) use compare::CompareArgs;
pub(crate) use converge::{ConvergeArgs, PrecisionArg};
pub(crate) use device::DeviceArgs;
pub(crate) use diffusion::DiffusionArgs;
pub(crate) use estimate::EstimateArgs;
pub(crate) use eval::EvalArgs;
pub(crate) use eval::{CandidateArgs, ResultArgs, at_least, once};
pub(crate) use evaluate::EvaluateArgs;
pub(crate) use finetune::{FinetuneArgs, OptimizerArg};
pub(crate) use generate::GenerateArgs;
pub(crate) use groups::command;
pub(crate) use ids::IdArgs;
pub(crate) use index::{ConvertArgs, IndexArgs, QueryArgs, VerifyArgs};
pub(crate) use influence::{AttributeArgs, DetectArgs, InfluenceArgs, SelectArgs};
pub(crate) use pairs::PairArgs;
pub(crate) use report::ReportArgs;
pub(crate) use scoring::{
    DirectionsArg, GIB, ProjectArgs, QueryModeArg, RankByArg, ScaleArg, ScoringArgs, SharedArgs, SideArg, StructureArg,
};
pub(crate) use sweep::SweepArgs;
pub(crate) use texts::{ColumnArgs, LengthArgs, ModelArgs};
pub(crate) use tools::{
    BatchSizeArg, CompletionsArgs, GlobalArgs, LogFormat, LogLevel, ManArgs, PlanArgs, Planned, SchemaArgs,
};
pub(crate) use truths::Task;
pub(crate) use variants::{OverArg, VariantArgs};

/// Training-data attribution: which training samples helped or harmed a prediction.
///
/// Exit codes: 0 success; 2 wrong usage (a flag, a method, a device, the output path); 3 bad input; 4 numerical failure.
#[derive(Debug, Parser)]
#[command(name = "hyperinf", version, after_help = examples::PROGRAM)]
pub(crate) struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
}

// Lists are verbatim: their lines must fit into 80 columns.
/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Score training samples from files of per-sample gradients
    ///
    /// Every training sample gets a score for every query: Σ v (H + λI)⁻¹ g over all blocks, where v and g are their
    /// gradients. Positive = helpful: training on the sample lowered the query's loss. Wrong labels have the most
    /// negative scores.
    ///
    /// A file of gradients is a safetensors file with one tensor per block, [samples, rows, cols] or [samples,
    /// parameters], of F32, F16, BF16 or F64; names and sides are the same in both files. A block without two sides
    /// counts as one row: the method hyperinf then inverts the whole parameters × parameters matrix, so write
    /// [samples, rows, cols] where a layer has two sides.
    #[command(after_help = examples::SCORE, override_usage = examples::SCORE_USAGE)]
    Score(ScoreArgs),
    /// Compare all methods on the same gradients
    ///
    /// Scores as `hyperinf score` does, with every method, and reports how far
    /// their rankings agree with each other and with the exact inverse (rank
    /// correlation, correlation, overlap of the most helpful samples), how
    /// exactly each solved its equations, and what it cost. DIR gets
    ///   methods.csv   per method: agreement with exact, residual, seconds, memory
    ///   pairs.csv     the agreement of each pair of methods
    ///   spearman.png  the rank correlations as a heat map
    ///   summary.json  all of it, with the settings and inputs
    /// A method that cannot be computed is left out, and the reason reported.
    #[command(verbatim_doc_comment, after_help = examples::COMPARE, override_usage = examples::COMPARE_USAGE)]
    Compare(CompareArgs),
    /// Compare methods with ground truths by retraining: on your adapter, or on a small built-in task
    ///
    /// `hyperinf eval adapter` trains an adapter of yours again. The other truths have a task of their own: 1,797 images of digits, 8 × 8, and a perceptron that trains in a fraction of a second. DIR gets
    /// methods.csv, summary.json and, where figures have intervals, methods.png as bars. Results of trainings are kept
    /// in a bank: interrupted runs resume, and other methods are compared without retraining.
    #[command(after_help = examples::EVAL)]
    Eval(EvalArgs),
    /// Score at many dampings, and compare the rankings
    ///
    /// Scores as `hyperinf score` does, at every damping, from one curvature, and
    /// reports how much the ranking changes from one damping to the next, how much
    /// it differs from that of the dot product, and with --known-bad how well low
    /// scores find bad samples. DIR gets
    ///   sweep.csv       per damping: residual, agreements, AUC
    ///   scores.parquet  the scores at every damping
    ///   sweep.png       the agreements as lines
    ///   spearman.png    the rank correlations between all dampings
    ///   summary.json    all but the scores, with the settings and inputs
    /// With --known-bad the damping that finds these samples best is
    /// recommended; without it none is, because a ranking that is stable need not
    /// be right.
    #[command(verbatim_doc_comment, after_help = examples::SWEEP, override_usage = examples::SWEEP_USAGE)]
    Sweep(SweepArgs),
    /// Show how fast each solver approaches the inverse of a matrix
    ///
    /// The experiment of HyperINF's figure 1: A = (1/N) Σ s sᵀ + λI of N normal
    /// samples of length d, a normal v, and the error ‖x̂ − A⁻¹v‖₂ after every step
    /// of Schulz's iteration from the authors' start, of hyperpower iterations of
    /// order 2 to 9 with Chebyshev scaling, of LiSSA with the authors' scale and
    /// ours, and of conjugate gradients; and DataInf and Cholesky, which take no
    /// steps. DIR gets
    ///   converge.csv        every step: errors, cosine, Spearman, products, seconds
    ///   converge-dD-nN.png  the errors by step and by time
    ///   summary.json        means and spreads over the draws
    #[command(verbatim_doc_comment, after_help = examples::CONVERGE)]
    Converge(ConvergeArgs),
    /// Say what a run will take: time, memory, disk, and the largest batch
    ///
    /// Loads the model, reads all rows, and measures a few batches of them (and the method on their gradients, or steps of
    /// a training) for some seconds. Write `plan` in front of the command: its options are the same. Nothing is written.
    #[command(after_help = examples::PLAN)]
    Plan(PlanArgs),
    /// Show rows as a model gets them: their tokens, and which are part of the loss
    ///
    /// Reads a data set with the tokenizer of a model and prints the text of the first rows as it is tokenised: for a
    /// language model with ⟦ ⟧ around the tokens that are part of the loss, for a classifier with the label. Then a
    /// table of checks: lengths, labels, duplicates; with --adapter also gradients of a few rows, against other batches
    /// and against differences of losses. Fails with exit code 3 at rows that cannot be used, and if a check fails.
    #[command(after_help = examples::CHECK)]
    Check(CheckArgs),
    /// Show the contents of a file of gradients, and whether `score` can use it
    ///
    /// Reads only the header; with --numbers also every number, and fails at the first NaN or infinity. Exit code 3:
    /// `hyperinf score` refuses the file, too.
    #[command(after_help = examples::INSPECT)]
    Inspect(InspectArgs),
    /// List the methods: what each computes, what it costs, where it comes from.
    #[command(after_help = examples::METHODS)]
    Methods(MethodsArgs),
    /// Print the JSON schema of configurations
    ///
    /// A configuration is a TOML file whose keys are the names of a command's flags: `--config FILE`. Commands that write
    /// a folder of results put theirs, run.toml, into it; it replays the run.
    #[command(after_help = examples::SCHEMA)]
    Schema(SchemaArgs),
    /// Print completions for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands
    #[command(after_help = examples::MAN)]
    Man(ManArgs),
    /// Fine-tune a model with LoRA adapters
    ///
    /// MODEL is a Hugging Face folder (config.json, model.safetensors, tokenizer.json), a .gguf file, a llama2.c .bin
    /// file, or a name on the hub. Encoders (BERT, RoBERTa, MiniLM) are trained as classifiers, decoders (Llama,
    /// Mistral, Qwen2, SmolLM2) as language models whose loss is over completions only. The adapter is a folder that
    /// PEFT loads; it also contains the training log.
    #[command(after_help = examples::FINETUNE)]
    Finetune(FinetuneArgs),
    /// Evaluate a model on rows: loss, accuracy or perplexity, and what it predicts for each row
    ///
    /// A classifier's accuracy is compared with the share of the most frequent label, its loss with the entropy of the
    /// labels' shares: what a guess achieves. Exit code 0 also for a bad model.
    #[command(after_help = examples::EVALUATE)]
    Evaluate(EvaluateArgs),
    /// Score the rows of a training file for the rows of a query file
    ///
    /// Takes each row's gradients with respect to the model's adapters and scores
    /// them as `hyperinf score` does: positive = helpful. DIR gets
    ///   scores.parquet  query_id, train_id, score, rank of every pair
    ///   topk.jsonl      per query the most helpful and most harmful training rows
    ///   summary.json    the settings, and rows left out or cut
    /// and with --positions
    ///   positions.jsonl the score of each token of the rows in topk.jsonl
    /// With several methods each has its own folder, DIR/METHOD. An interrupted run
    /// resumes its gradients where it stopped; gradients that are kept are reused.
    #[command(verbatim_doc_comment, after_help = examples::ATTRIBUTE, override_usage = examples::ATTRIBUTE_USAGE)]
    Attribute(AttributeArgs),
    /// Find the training rows that look wrong, and write the data without them
    ///
    /// Scores the training rows for the mean of the validation rows: wrong labels have the most negative scores. DIR
    /// gets suspicious.csv (the most suspicious row first, with the model's label and its probability, the score,
    /// training loss and self-influence), summary.json and, with --remove, the data set without the most suspicious
    /// rows, in its own format, order and columns. With several methods each has its own folder, DIR/METHOD.
    #[command(after_help = examples::DETECT, override_usage = examples::DETECT_USAGE)]
    Detect(DetectArgs),
    /// Choose the training rows that help the validation rows most
    ///
    /// Scores the training rows for the mean of the validation rows. DIR gets the best of them as selected.jsonl,
    /// .csv or .parquet, in the data set's own format, order and columns, ranking.csv (every row with its score, the
    /// best first), and summary.json. With several methods each has its own folder, DIR/METHOD.
    #[command(after_help = examples::SELECT, override_usage = examples::SELECT_USAGE)]
    Select(SelectArgs),
    /// Make one HTML page of the results of attribute, detect or select
    ///
    /// The page needs no network: rankings with texts and pictures, the distribution of scores, residuals, and every row
    /// in a table that can be sorted and searched. With --known-bad or --true-labels it shows how well low scores find
    /// bad rows, with --sweep how the scores depend on the damping. Rows are read from the files that the summary names,
    /// which must be unchanged.
    #[command(after_help = examples::REPORT)]
    Report(ReportArgs),
    /// Compute the gradients of training rows once, into an index that is asked often
    ///
    /// DIR gets the gradients in leaves of 64 batches, each a safetensors file with
    /// its hash in a journal, and manifest.json, which names everything that the
    /// numbers depend on. An interrupted or killed build is resumed by the same
    /// command, byte for byte. Further rows of the same file, or those of another
    /// one with --append, become new leaves; finished leaves stay as they are.
    ///   hyperinf query    which rows of the index help and harm a prediction
    ///   hyperinf verify   whether the index is what was written
    ///   hyperinf score    takes an index for --train-gradients
    #[command(verbatim_doc_comment, after_help = examples::INDEX, override_usage = examples::INDEX_USAGE)]
    Index(IndexArgs),
    /// Ask an index which training rows help and harm a prediction
    ///
    /// Only the queries run through the model; no training row is read. Any method of stored gradients can be asked, with
    /// any damping, normalisation and projection. The curvature of the index is computed by the first question that needs
    /// it and kept for the next ones, except that of methods that hold all gradients (datainf, exact with fewer rows than
    /// parameters). kfac and ekfac need the model on all training rows: use attribute.
    #[command(after_help = examples::QUERY, override_usage = examples::QUERY_USAGE)]
    Query(QueryArgs),
    /// Check every file of an index against its hash, and compute damaged leaves again
    ///
    /// Names each damaged, missing or exchanged file, and in a shard the first damaged block. Exit code 3 if there are
    /// any. With --repair the leaves concerned are computed again from the model and the rows, which must be unchanged.
    #[command(after_help = examples::VERIFY)]
    Verify(VerifyArgs),
    /// Write gradients in another format or type
    ///
    /// `hyperinf score`, `compare`, `sweep` and `inspect` read the same sources without it.
    #[command(after_help = examples::CONVERT)]
    Convert(ConvertArgs),
    /// Draw pictures with a text-to-image model, and see what it knows
    ///
    /// MODEL is diffusers' folder (model_index.json): PixArt, or Stable Diffusion 1.5 or 2. Noise comes from the seed, so
    /// the same command draws the same picture. DDIM, or Euler's method for a flow; classifier-free guidance.
    #[command(after_help = examples::GENERATE, override_usage = examples::GENERATE_USAGE)]
    Generate(GenerateArgs),
    /// Find wrong labels in real e-mails with every method, and compare them; or see which pictures taught a model
    ///
    /// Flips the labels (spam or ham) of some of 1,500 e-mails, fine-tunes a small transformer on them with LoRA, and
    /// looks for the flipped labels with every method. With --images, a small vision-language model learns three colours
    /// from 600 pictures with some wrong answers, and a sheet shows which of them helped and harmed. Either takes less
    /// than two minutes on two cores.
    #[command(after_help = examples::DEMO)]
    Demo(DemoArgs),
}

/// Arguments of `hyperinf score`.
#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// Gradients of the training samples.
    #[arg(long, value_name = "FILE.safetensors", display_order = 1)]
    pub train_gradients: PathBuf,
    /// Gradients of the queries.
    #[arg(long, value_name = "FILE.safetensors", display_order = 2)]
    pub query_gradients: PathBuf,
    /// One row of scores per query, or one row for the mean query gradient [default: each; mean with
    /// --contrast-gradients or --uncertainty].
    #[arg(long, value_enum, display_order = 4)]
    pub query_mode: Option<QueryModeArg>,
    /// Contrasts, groups, checkpoints and error bars.
    #[command(flatten)]
    pub variants: VariantArgs,
    /// Ids for the rows of gradient files.
    #[command(flatten)]
    pub ids: IdArgs,
    /// Where to write the scores: .safetensors, .parquet, .csv or .jsonl.
    ///
    /// safetensors: one tensor `scores` [queries, samples] of F32. The others: query_id, train_id,
    /// score, rank; rank 1 is the most helpful. The metadata say how they were computed; csv and
    /// jsonl have them in a second file, FILE.json.
    #[arg(long, value_name = "FILE", display_order = 3)]
    pub output: Option<PathBuf>,
    /// How to score.
    #[command(flatten)]
    pub scoring: ScoringArgs,
}

/// Arguments of `hyperinf methods`.
#[derive(Debug, Args)]
pub(crate) struct MethodsArgs {
    /// Print the list as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print the list as a Markdown table.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
}

/// Arguments of `hyperinf inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A safetensors file of per-sample gradients.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Read every number: look for NaN and infinities, and compute the file's fingerprint.
    #[arg(long)]
    pub numbers: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `hyperinf demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Attribute answers about pictures.
    #[arg(long)]
    pub images: bool,
    /// The seed of the flipped labels or wrong answers, and of the training.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The share of training rows whose label is flipped, or whose answer is wrong.
    #[arg(long, default_value_t = 0.2, allow_hyphen_values = true)]
    pub noise: f64,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The folder for scores.parquet, summary.json and scores.csv, with --images scores.png; created if missing.
    #[arg(long, value_name = "DIR", default_value = "hyperinf-demo")]
    pub out: PathBuf,
}
