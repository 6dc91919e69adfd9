use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What `hyperinf eval` takes.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Which truth the scores are held against.
    #[command(subcommand)]
    pub truth: EvalCommand,
}

/// The ground truths.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Linear datamodelling score: do summed scores predict the losses after retraining on random subsets?
    ///
    /// Draws random halves of the training images, trains on each with several seeds, and correlates
    /// for each query the summed scores of a half with the loss after training on it (Spearman;
    /// 1 = the order is predicted perfectly, 0 = not at all). The mean over queries, with a 95 %
    /// bootstrap interval.
    #[command(verbatim_doc_comment)]
    Lds(LdsArgs),
    /// Leave-one-out: do scores predict what training without a sample does?
    ///
    /// Trains without each of some training images in turn, and with all, with the same seeds, and
    /// correlates for each query the scores of these images with the change of its loss.
    #[command(verbatim_doc_comment)]
    Loo(LooArgs),
    /// Wrong labels: are they found?
    ///
    /// Gives some training images wrong labels, trains on them, and scores them for the mean of the
    /// queries: the AUC of the negative score, and the share of the wrong labels among the most
    /// suspicious 10, 20 and 30 %, mean and standard error over seeds.
    #[command(verbatim_doc_comment)]
    Mislabel(MislabelArgs),
    /// Proximal Bregman response: do scores predict what the trained model itself would do?
    ///
    /// Minimises, from the trained parameters on, a Bregman distance to the trained outputs with a
    /// little less weight on one training image, close to the trained parameters (λ/2 of the squared
    /// distance), for each of some images, and correlates for each query the change of its loss with
    /// the scores at the same λ. λ is the same for all layers: FACTOR of --damping × the mean square
    /// of all gradients' entries; a small one lets a network move out of where it is nearly linear.
    #[command(verbatim_doc_comment)]
    Pbrf(PbrfArgs),
    /// Brittleness: does removing a query's most helpful samples change its prediction?
    Brittleness(BrittlenessArgs),
    /// Selection: how good is a model trained on the best samples only?
    ///
    /// Keeps the images of the highest scores for the mean of the queries, trains on them for as many
    /// steps as on all of them, and tells the mean loss of *other* images; beside it random choices
    /// of the same size, and all images.
    #[command(verbatim_doc_comment)]
    Selection(SelectionArgs),
}

/// The model and its data: images of digits and a perceptron.
#[derive(Clone, Debug, Args)]
pub struct TaskArgs {
    /// Training images; there are 1,797 in all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub train: usize,
    /// Query images, none of which is trained on.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub queries: usize,
    /// Decides which images are taken.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub data_seed: u64,
    /// Units of the hidden layers, with commas between them; `none` for softmax regression.
    #[arg(long, value_name = "SIZES", default_value = "64,64", value_parser = hidden)]
    pub hidden: Hidden,
    /// The optimiser.
    #[arg(long, value_enum, default_value_t)]
    pub optimizer: OptimizerArg,
    /// The learning rate, the same for all steps [default: 0.05 for sgd, 0.003 for adamw].
    #[arg(long, value_name = "RATE", allow_hyphen_values = true)]
    pub learning_rate: Option<f64>,
    /// What sgd keeps of the last step [default: 0.9].
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true)]
    pub momentum: Option<f64>,
    /// Weight decay.
    #[arg(long, value_name = "DECAY", default_value_t = 1e-3, allow_hyphen_values = true)]
    pub weight_decay: f64,
    /// Images per step.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub batch_size: usize,
    /// Passes over the training images [default: 30; for selection as many steps as on all images].
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Steps of each training, however many images it has.
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    pub steps: Option<usize>,
}

/// Units of hidden layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden(pub Vec<usize>);

fn hidden(text: &str) -> Result<Hidden, String> {
    if text == "none" {
        return Ok(Hidden(Vec::new()));
    }
    let size = |part: &str| part.trim().parse().ok().filter(|&size: &usize| size > 0);
    let sizes: Option<Vec<usize>> = text.split(',').map(size).collect();
    sizes.map(Hidden).ok_or_else(|| "expected sizes such as 64,64, or none".into())
}

/// An optimiser as typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OptimizerArg {
    /// Stochastic gradient descent with momentum.
    #[default]
    Sgd,
    /// AdamW.
    Adamw,
}

/// Which scores are judged.
#[derive(Clone, Debug, Args)]
pub struct JudgedArgs {
    /// Methods with commas between them: `NAME[:PART…][@ESTIMATE]`, or `all`
    ///
    /// NAME is one that `hyperinf methods` lists. PART is `rows` or `cols`, the side that hyperinf
    /// sums over; `sum`, not divided by its length; or `merged`, one matrix over all layers.
    /// `sum` is for hyperinf alone, `rows` and `cols` for hyperinf and hyperinf-authors.
    /// ESTIMATE is the curvature: `empirical` (default; kfac and ekfac: `sampled`), `sampled` or
    /// `gauss-newton`. Such as: hyperinf:rows,exact:merged@gauss-newton
    #[arg(long, value_name = "METHODS", default_value = "all", value_delimiter = ',', verbatim_doc_comment)]
    pub methods: Vec<String>,
    /// Factors of the relative damping, with commas between them [default: 0.1; for pbrf 100].
    #[arg(long, value_name = "FACTORS", value_delimiter = ',', allow_hyphen_values = true)]
    pub damping: Vec<f64>,
    /// Trained models (seeds 0, 1, …) whose scores are averaged.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub models: usize,
    /// Draws of labels per image, for the estimate `sampled` [default: 16].
    #[arg(long, value_name = "N")]
    pub draws: Option<usize>,
    /// Where gradients and scores are computed: flex, ndarray, … [default: the first compiled in].
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
}

/// Where results go.
#[derive(Clone, Debug, Args)]
pub struct ResultArgs {
    /// The folder for summary.json, methods.csv and methods.png; made if it is not there
    /// [default: hyperinf-eval-TRUTH, such as hyperinf-eval-lds].
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub out: Option<PathBuf>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

impl ResultArgs {
    /// The folder for the results of a truth.
    pub fn folder(&self, truth: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| format!("hyperinf-eval-{truth}").into())
    }
}

/// Where results of retrainings are kept.
#[derive(Clone, Debug, Args)]
pub struct BankArgs {
    /// The file that keeps the results of all trainings: what is in it is not trained again
    /// [default: bank.jsonl in the folder of --out].
    #[arg(long, value_name = "FILE.jsonl", verbatim_doc_comment)]
    pub bank: Option<PathBuf>,
    /// Trainings of each choice of images, with the seeds 0, 1, …
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub seeds: u64,
}

/// What `hyperinf eval lds` takes.
#[derive(Debug, Args)]
pub struct LdsArgs {
    /// Random subsets.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub subsets: usize,
    /// The share of the training images in each.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_hyphen_values = true)]
    pub share: f64,
    /// The model and its data.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Which scores are judged.
    #[command(flatten)]
    pub judged: JudgedArgs,
    /// The trainings.
    #[command(flatten)]
    pub bank: BankArgs,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultArgs,
}

/// What `hyperinf eval loo` takes.
#[derive(Debug, Args)]
pub struct LooArgs {
    /// Training images that are left out, one at a time: the first ones, which are random.
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub leave_out: usize,
    /// The model and its data.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Which scores are judged.
    #[command(flatten)]
    pub judged: JudgedArgs,
    /// The trainings.
    #[command(flatten)]
    pub bank: BankArgs,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultArgs,
}

/// What `hyperinf eval mislabel` takes.
#[derive(Debug, Args)]
pub struct MislabelArgs {
    /// The share of the training images that get a wrong label.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, allow_hyphen_values = true)]
    pub noise: f64,
    /// Repetitions: other wrong labels, and another training.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub seeds: u64,
    /// The model and its data.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Which scores are judged.
    #[command(flatten)]
    pub judged: JudgedArgs,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultArgs,
}

/// What `hyperinf eval pbrf` takes.
#[derive(Debug, Args)]
pub struct PbrfArgs {
    /// Training images whose weight is taken away, one at a time: the first ones, which are random.
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub samples: usize,
    /// How much of its weight of 1/n a sample loses: 1 for all of it.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, allow_hyphen_values = true)]
    pub weight: f64,
    /// The model and its data.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Which scores are judged.
    #[command(flatten)]
    pub judged: JudgedArgs,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultArgs,
}

/// What `hyperinf eval brittleness` takes.
#[derive(Debug, Args)]
pub struct BrittlenessArgs {
    /// How many of a query's most helpful images are removed.
    #[arg(long, value_name = "COUNTS", default_value = "20,40,80", value_delimiter = ',')]
    pub remove: Vec<usize>,
    /// Queries that are looked at: the first ones, which are random.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub look_at: usize,
    /// The model and its data.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Which scores are judged.
    #[command(flatten)]
    pub judged: JudgedArgs,
    /// The trainings.
    #[command(flatten)]
    pub bank: BankArgs,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultArgs,
}

/// What `hyperinf eval selection` takes.
#[derive(Debug, Args)]
pub struct SelectionArgs {
    /// The shares of the training images that are kept.
    #[arg(long, value_name = "SHARES", default_value = "0.05,0.2,0.4,0.7", value_delimiter = ',')]
    pub keep: Vec<f64>,
    /// Random choices of each size.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub draws_of: usize,
    /// Images by which the trained models are judged, neither training images nor queries.
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub test: usize,
    /// The share of the training images that get a wrong label first.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, allow_hyphen_values = true)]
    pub noise: f64,
    /// The model and its data.
    #[command(flatten)]
    pub task: TaskArgs,
    /// Which scores are judged.
    #[command(flatten)]
    pub judged: JudgedArgs,
    /// The trainings.
    #[command(flatten)]
    pub bank: BankArgs,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultArgs,
}
