use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hyperinf::eval::digits::{DigitsConfig, Length, Optimizer, Recipe};

use super::DeviceArgs;
use super::truths::EvalCommand;
use crate::error::{CliError, Usage};

/// Arguments of `hyperinf eval`.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// The ground truth to compare scores with.
    #[command(subcommand)]
    pub truth: EvalCommand,
}

/// Options shared by all ground truths.
#[derive(Clone, Debug, Args)]
pub(crate) struct EvalSharedArgs {
    /// The model and its data.
    #[command(flatten)]
    pub task: TaskArgs,
    /// The scores to compare.
    #[command(flatten)]
    pub judged: CandidateArgs,
    /// The outputs.
    #[command(flatten)]
    pub result: ResultArgs,
}

/// The model and its data: images of digits and a perceptron.
#[derive(Clone, Debug, Args)]
pub(crate) struct TaskArgs {
    /// Training images; the set has 1,797 images.
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Task and training")]
    pub train: usize,
    /// Query images, none of which is trained on.
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "Task and training")]
    pub queries: usize,
    /// Seed that draws the images.
    #[arg(
        long = "seed",
        alias = "data-seed",
        value_name = "SEED",
        default_value_t = 0,
        help_heading = "Task and training"
    )]
    pub data_seed: u64,
    /// Units of the hidden layers, separated by commas; `none` for softmax regression.
    #[arg(long, value_name = "SIZES", default_value = "64,64", value_parser = hidden, help_heading = "Task and training")]
    pub hidden: Hidden,
    /// The optimiser.
    #[arg(long, value_enum, default_value_t, help_heading = "Task and training")]
    pub optimizer: OptimizerArg,
    /// The learning rate, constant [default: 0.05 for sgd, 0.003 for adamw].
    #[arg(long, value_name = "RATE", allow_hyphen_values = true, help_heading = "Task and training")]
    pub learning_rate: Option<f64>,
    /// Momentum of sgd [default: 0.9].
    #[arg(long, value_name = "SHARE", allow_hyphen_values = true, help_heading = "Task and training")]
    pub momentum: Option<f64>,
    /// Weight decay.
    #[arg(
        long,
        value_name = "DECAY",
        default_value_t = 1e-3,
        allow_hyphen_values = true,
        help_heading = "Task and training"
    )]
    pub weight_decay: f64,
    /// Images per step.
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Task and training")]
    pub batch_size: usize,
    /// Passes over the training images [default: 30; selection takes the steps of all images].
    #[arg(long, value_name = "N", help_heading = "Task and training")]
    pub epochs: Option<usize>,
    /// Steps per training, however many images it has.
    #[arg(long, value_name = "N", conflicts_with = "epochs", help_heading = "Task and training")]
    pub steps: Option<usize>,
}

/// Units of hidden layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hidden(pub Vec<usize>);

fn hidden(text: &str) -> Result<Hidden, String> {
    if text == "none" {
        return Ok(Hidden(Vec::new()));
    }
    let size = |part: &str| part.trim().parse().ok().filter(|&size: &usize| size > 0);
    let sizes: Option<Vec<usize>> = text.split(',').map(size).collect();
    sizes.map(Hidden).ok_or_else(|| "expected sizes such as 64,64, or none".into())
}

/// The optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimizerArg {
    /// Stochastic gradient descent with momentum.
    #[default]
    Sgd,
    /// AdamW.
    Adamw,
}

impl TaskArgs {
    /// The settings of the task.
    pub(crate) fn config(&self) -> Result<DigitsConfig, CliError> {
        at_least("--train", self.train, 1)?;
        at_least("--queries", self.queries, 1)?;
        let recipe = self.recipe()?;
        let (hidden, data_seed) = (self.hidden.0.clone(), self.data_seed);
        Ok(DigitsConfig { train: self.train, queries: self.queries, data_seed, hidden, recipe })
    }

    fn recipe(&self) -> Result<Recipe, CliError> {
        if let (OptimizerArg::Adamw, Some(_)) = (self.optimizer, self.momentum) {
            let reason = "its rates are .9 and .999";
            return Err(Usage::Combination { first: "--momentum".into(), second: "--optimizer adamw", reason }.into());
        }
        let (optimizer, rate) = match self.optimizer {
            OptimizerArg::Sgd => (Optimizer::Sgd { momentum: self.momentum.unwrap_or(0.9) }, 0.05),
            OptimizerArg::Adamw => (Optimizer::AdamW, 0.003),
        };
        let length = match self.steps {
            Some(steps) => Length::Steps(steps),
            None => Length::Epochs(self.epochs.unwrap_or(30)),
        };
        let recipe = Recipe {
            optimizer,
            learning_rate: self.learning_rate.unwrap_or(rate),
            weight_decay: self.weight_decay,
            batch_size: self.batch_size,
            length,
        };
        recipe.validate()?;
        Ok(recipe)
    }
}

/// The scores to compare.
#[derive(Clone, Debug, Args)]
pub(crate) struct CandidateArgs {
    /// Methods, separated by commas: `NAME[:PART…][/SOLVER][@ESTIMATE]`, or `all`.
    ///
    /// NAME is one that `hyperinf methods` lists. PART is `rows` or `cols`, the side that hyperinf sums over; `sum`,
    /// not divided by its length; or `merged`, one matrix over all layers. `sum` is for hyperinf alone, `rows` and
    /// `cols` for hyperinf and hyperinf-authors. SOLVER replaces the method's own. ESTIMATE is the curvature:
    /// `empirical` (default; kfac and ekfac: `sampled`), `sampled` or `gauss-newton`. Example:
    /// hyperinf:rows,exact:merged/cg@gauss-newton
    #[arg(long, value_name = "METHODS", default_value = "all", value_delimiter = ',')]
    pub methods: Vec<String>,
    /// Factors of the relative damping, separated by commas [default: 0.1; for pbrf 100].
    #[arg(long, value_name = "FACTORS", value_delimiter = ',', allow_hyphen_values = true)]
    pub damping: Vec<f64>,
    /// Judge every method with an inverse also with so many steps of refinement, separated by commas.
    ///
    /// Conjugate gradients on the damped Gauss-Newton matrix over all layers, from the method's inverse of each layer.
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    pub refine: Vec<usize>,
    /// Trained models (seeds 0, 1, …) whose scores are averaged.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub models: usize,
    /// Label draws per image, for the estimate `sampled` [default: 16].
    #[arg(long, value_name = "N")]
    pub draws: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// The outputs.
#[derive(Clone, Debug, Args)]
pub(crate) struct ResultArgs {
    /// Folder for summary.json, methods.csv and methods.png; created if missing
    /// [default: hyperinf-eval-TRUTH, such as hyperinf-eval-lds].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

impl ResultArgs {
    /// The output folder for a ground truth.
    pub(crate) fn folder(&self, truth: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| format!("hyperinf-eval-{truth}").into())
    }
}

/// Retrainings and their file.
#[derive(Clone, Debug, Args)]
pub(crate) struct BankArgs {
    /// File that keeps the results of all trainings; training is never repeated
    /// [default: bank.jsonl in the folder of --out].
    #[arg(long, value_name = "FILE.jsonl")]
    pub bank: Option<PathBuf>,
    /// Trainings on each subset of the images, with the seeds 0, 1, …
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub seeds: u64,
}

impl BankArgs {
    /// The seeds of the trainings.
    pub(crate) fn seeds(&self) -> Result<Vec<u64>, CliError> {
        at_least("--seeds", self.seeds as usize, 1)?;
        Ok((0..self.seeds).collect())
    }
}

/// The largest count accepted: anything above is a typing mistake.
const MOST: usize = 1_000_000;

/// Fails if a count is too small, or absurd.
pub(crate) fn at_least(flag: &'static str, value: usize, least: usize) -> Result<(), CliError> {
    let expected = match least {
        _ if value > MOST => "at most 1000000",
        1 => "at least 1",
        _ => "at least 2",
    };
    if value < least || value > MOST {
        Err(Usage::Value { flag, expected, value: value as f64 }.into())
    } else {
        Ok(())
    }
}

/// Each value once, in order of first appearance.
pub(crate) fn once<T: Clone + PartialEq>(values: &[T]) -> Vec<T> {
    let first = |(place, value): &(usize, &T)| !values[..*place].contains(value);
    values.iter().enumerate().filter(first).map(|(_, value)| value.clone()).collect()
}
