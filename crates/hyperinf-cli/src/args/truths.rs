//! The ground truths of `hyperinf eval`: for each its arguments, and the settings they stand for.

use clap::{Args, Subcommand};
use hyperinf::eval::{
    BrittlenessConfig, LdsConfig, LooConfig, MislabelConfig, PbrfConfig, SelectionConfig, SelectionTrial,
    SubclassConfig, Truth,
};

use super::adapter::{AdapterArgs, AdapterCommand};
use super::eval::{BankArgs, EvalSharedArgs, at_least, once};
use crate::error::{CliError, Usage};

/// The ground truths.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one value of it in a process")]
pub(crate) enum EvalCommand {
    /// Linear datamodelling score: do summed scores predict the losses after retraining on random subsets?
    ///
    /// Draws random halves of the training images, trains on each with several seeds, and correlates
    /// for each query the summed scores of a half with the loss after training on it (Spearman;
    /// 1 = the order is predicted perfectly, 0 = not at all). Reports the mean over queries with a
    /// 95 % bootstrap interval.
    #[command(verbatim_doc_comment)]
    Lds(LdsArgs),
    /// Leave-one-out: do scores predict the effect of training without a sample?
    ///
    /// Trains without each of some training images in turn, and with all, with the same seeds, and
    /// correlates for each query the scores of these images with the change of its loss.
    #[command(verbatim_doc_comment)]
    Loo(LooArgs),
    /// Wrong labels: do scores find them?
    ///
    /// Gives some training images wrong labels, trains on them, and scores them for the mean of the
    /// queries. Reports the AUC of the negative score, and the share of the wrong labels among the
    /// most suspicious 10, 20 and 30 %: mean and standard error over seeds.
    #[command(verbatim_doc_comment)]
    Mislabel(MislabelArgs),
    /// Proximal Bregman response: do scores predict how the trained model itself responds?
    ///
    /// Starts from the trained parameters and minimises a Bregman distance to the trained outputs,
    /// with a little less weight on one training image and a penalty on leaving the trained
    /// parameters (λ/2 of the squared distance). For each of some images, correlates for each query
    /// the change of its loss with the scores at the same λ. λ is the same for all layers: FACTOR of
    /// --damping × the mean square of all gradients' entries. With a small λ a network leaves the
    /// region where it is nearly linear.
    #[command(verbatim_doc_comment)]
    Pbrf(PbrfArgs),
    /// Brittleness: does removing a query's most helpful samples change its prediction?
    Brittleness(BrittlenessArgs),
    /// Selection: how good is a model trained on the best samples only?
    ///
    /// Keeps the images with the highest scores for the mean of the queries, trains on them for as
    /// many steps as on all images, and reports the mean loss of *other* images, next to random
    /// selections of the same size and to all images.
    #[command(verbatim_doc_comment)]
    Selection(SelectionArgs),
    /// Identical subclasses: do the most helpful samples show the same digit as the query?
    ///
    /// Merges the digits into superclasses (even and odd), trains on those, and reports the share of
    /// the queries whose most helpful image shows the same digit, with a 95 % interval, and the share
    /// among the 10 most helpful images. Needs no retraining.
    #[command(verbatim_doc_comment)]
    Subclass(SubclassArgs),
    /// Your own adapter: do scores predict the losses after training it again without some rows?
    Adapter(AdapterArgs),
}

/// A ground truth, the shared options, and the options for retrainings where there are any.
type EvalParts<'a> = (Box<dyn Truth>, &'a EvalSharedArgs, Option<&'a BankArgs>);

/// What is trained again.
pub(crate) enum Task<'a> {
    /// The built-in task.
    Digits(EvalParts<'a>),
    /// An adapter.
    Adapter(&'a AdapterCommand),
}

impl EvalCommand {
    /// The settings that the arguments stand for.
    pub(crate) fn parts(&self) -> Result<Task<'_>, CliError> {
        Ok(Task::Digits(match self {
            Self::Adapter(args) => return Ok(Task::Adapter(&args.truth)),
            Self::Lds(args) => (Box::new(args.truth()?), &args.shared, Some(&args.bank)),
            Self::Loo(args) => (Box::new(args.truth()?), &args.shared, Some(&args.bank)),
            Self::Mislabel(args) => (Box::new(args.truth()?), &args.shared, None),
            Self::Pbrf(args) => (Box::new(args.truth()?), &args.shared, None),
            Self::Brittleness(args) => (Box::new(args.truth()?), &args.shared, Some(&args.bank)),
            Self::Selection(args) => (Box::new(args.truth()?), &args.shared, Some(&args.bank)),
            Self::Subclass(args) => (Box::new(SubclassConfig { classes: args.classes }), &args.shared, None),
        }))
    }
}

/// Arguments of `hyperinf eval lds`.
#[derive(Debug, Args)]
pub(crate) struct LdsArgs {
    /// Random subsets.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub subsets: usize,
    /// Share of the training images in each subset.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_hyphen_values = true)]
    pub share: f64,
    /// Retrainings.
    #[command(flatten)]
    pub bank: BankArgs,
    /// Options shared by all ground truths.
    #[command(flatten)]
    pub shared: EvalSharedArgs,
}

impl LdsArgs {
    fn truth(&self) -> Result<LdsConfig, CliError> {
        at_least("--subsets", self.subsets, 2)?;
        Ok(LdsConfig { subsets: self.subsets, share: self.share, seeds: self.bank.seeds()?, draw: 0 })
    }
}

/// Arguments of `hyperinf eval loo`.
#[derive(Debug, Args)]
pub(crate) struct LooArgs {
    /// Training images to leave out, one at a time: the first ones, which are random.
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub leave_out: usize,
    /// Retrainings.
    #[command(flatten)]
    pub bank: BankArgs,
    /// Options shared by all ground truths.
    #[command(flatten)]
    pub shared: EvalSharedArgs,
}

impl LooArgs {
    fn truth(&self) -> Result<LooConfig, CliError> {
        at_least("--leave-out", self.leave_out, 2)?;
        Ok(LooConfig { samples: (0..self.leave_out).collect(), seeds: self.bank.seeds()? })
    }
}

/// Arguments of `hyperinf eval mislabel`.
#[derive(Debug, Args)]
pub(crate) struct MislabelArgs {
    /// Share of the training images that get a wrong label.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, allow_hyphen_values = true)]
    pub noise: f64,
    /// Repetitions with other wrong labels and another training.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub seeds: u64,
    /// Options shared by all ground truths.
    #[command(flatten)]
    pub shared: EvalSharedArgs,
}

impl MislabelArgs {
    fn truth(&self) -> Result<MislabelConfig, CliError> {
        at_least("--seeds", self.seeds as usize, 1)?;
        let truth = MislabelConfig { noise: self.noise, seeds: (0..self.seeds).collect() };
        let expected = "a share that gives some images a wrong label and not all";
        let refused = |_| Usage::Value { flag: "--noise", expected, value: self.noise };
        truth.validate(self.shared.task.train).map_err(refused)?;
        Ok(truth)
    }
}

/// Arguments of `hyperinf eval pbrf`.
#[derive(Debug, Args)]
pub(crate) struct PbrfArgs {
    /// Training images that lose weight, one at a time: the first ones, which are random.
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub samples: usize,
    /// Share of its weight of 1/n that an image loses: 1 for all of it.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, allow_hyphen_values = true)]
    pub weight: f64,
    /// Options shared by all ground truths.
    #[command(flatten)]
    pub shared: EvalSharedArgs,
}

impl PbrfArgs {
    fn truth(&self) -> Result<PbrfConfig, CliError> {
        at_least("--samples", self.samples, 2)?;
        let (samples, models) = (self.samples, self.shared.judged.models);
        if models != 1 {
            let (expected, value) = ("1: the response is one model's", models as f64);
            return Err(Usage::Value { flag: "--models", expected, value }.into());
        }
        if samples > self.shared.task.train {
            let (expected, value) = ("at most the number of training images", samples as f64);
            return Err(Usage::Value { flag: "--samples", expected, value }.into());
        }
        Ok(PbrfConfig { samples: (0..samples).collect(), weight: self.weight })
    }
}

/// Arguments of `hyperinf eval brittleness`.
#[derive(Debug, Args)]
pub(crate) struct BrittlenessArgs {
    /// Numbers of most helpful images to remove for each query.
    #[arg(long, value_name = "COUNTS", default_value = "20,40,80", value_delimiter = ',')]
    pub remove: Vec<usize>,
    /// Queries to inspect: the first ones, which are random.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub look_at: usize,
    /// Retrainings.
    #[command(flatten)]
    pub bank: BankArgs,
    /// Options shared by all ground truths.
    #[command(flatten)]
    pub shared: EvalSharedArgs,
}

impl BrittlenessArgs {
    fn truth(&self) -> Result<BrittlenessConfig, CliError> {
        at_least("--look-at", self.look_at, 1)?;
        let (remove, seeds) = (once(&self.remove), self.bank.seeds()?);
        Ok(BrittlenessConfig { remove, queries: (0..self.look_at).collect(), seeds })
    }
}

/// Arguments of `hyperinf eval selection`.
#[derive(Debug, Args)]
pub(crate) struct SelectionArgs {
    /// Shares of the training images to keep.
    #[arg(long, value_name = "SHARES", default_value = "0.05,0.2,0.4,0.7", value_delimiter = ',')]
    pub keep: Vec<f64>,
    /// Random selections of each size.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub draws_of: usize,
    /// Images that judge the trained models, neither training images nor queries.
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub test: usize,
    /// Share of the training images that get a wrong label first.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, allow_hyphen_values = true)]
    pub noise: f64,
    /// Retrainings.
    #[command(flatten)]
    pub bank: BankArgs,
    /// Options shared by all ground truths.
    #[command(flatten)]
    pub shared: EvalSharedArgs,
}

impl SelectionArgs {
    fn truth(&self) -> Result<SelectionTrial, CliError> {
        at_least("--draws-of", self.draws_of, 1)?;
        at_least("--test", self.test, 1)?;
        let (keep, seeds) = (once(&self.keep), self.bank.seeds()?);
        let selection = SelectionConfig { keep, seeds, draws: self.draws_of, draw: 0 };
        Ok(SelectionTrial { selection, test: self.test, noise: self.noise })
    }
}

/// Arguments of `hyperinf eval subclass`.
#[derive(Debug, Args)]
pub(crate) struct SubclassArgs {
    /// Superclasses that the model learns: a digit's is the digit modulo N, 2 for even and odd; at most 5.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub classes: usize,
    /// Options shared by all ground truths.
    #[command(flatten)]
    pub shared: EvalSharedArgs,
}
