//! The published experiments on text and pictures, and the maker of the demo's assets: `cargo xtask experiments`,
//! `cargo xtask demo-assets`.
//!
//! Results are JSON lines, one per finished unit of work (a data set, a rank, a seed). Finished units are skipped, so an
//! interrupted run resumes.

mod checks;
mod cleaning;
mod data;
mod demo_assets;
mod detection;
mod digits_truth;
mod emoji;
mod figures;
mod gradients;
mod influential;
mod judge;
mod mail;
mod mail_truth;
mod mails;
mod results;
mod selections;
mod tables;
mod vision;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Any failure: people run this program by hand and need only the message.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Repeats the published experiments and makes the demo's assets.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// Compares real weights (MiniLM, SmolLM2, stories260K) with known outputs.
    Checks(Places),
    /// Finds wrong labels by influence on clean validation samples.
    Detection(detection::Settings),
    /// Tunes again without the samples that a method removes, and compares the accuracies.
    Cleaning(cleaning::Settings),
    /// Tunes on rows that are selected in different ways, and compares the accuracies.
    Selections(selections::Settings),
    /// Finds training samples of the query's own class by influence on it.
    Influential(influential::Settings),
    /// Compares every method with trainings of the built-in digits without some of them.
    DigitsTruth(digits_truth::Settings),
    /// Finds wrong labels and selects rows of e-mails by the training that happened.
    MailTruth(mail_truth::Settings),
    /// Writes e-mails as rows for the program, some with the wrong label.
    Mails(mails::Settings),
    /// Trains a small text-to-image model on emoji.
    Emoji(emoji::Settings),
    /// Scores emoji for pictures of their style or subject, and compares the scores with retraining.
    EmojiInfluence(emoji::influence::Settings),
    /// Selects rows for questions about colours with a small vision-language model.
    EasyVqa(vision::easy_vqa::Settings),
    /// Selects photos by the worth of their human labels for a vision-language model.
    Photos(vision::photos::Settings),
    /// Prints tables and draws figures of the results.
    Report(Report),
    /// Makes the data and the models of `hyperinf demo`.
    DemoAssets(demo_assets::Settings),
}

/// The folders of models, data and results, and the device.
#[derive(Args, Clone)]
pub struct Places {
    /// The folder of `cargo xtask assets`; `cargo xtask experiments` passes it.
    #[arg(long)]
    pub assets: PathBuf,
    /// A folder with those of `glue/*.jsonl`, `datainf/*.jsonl` and `tinystories` that the experiment reads.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// The folder of results.
    #[arg(long, default_value = "target/experiments")]
    pub out: PathBuf,
    /// The name of the device.
    #[arg(long, default_value = "flex")]
    pub device: String,
}

impl Places {
    /// The data folder, or an error if it is not given.
    pub fn data(&self) -> Result<&std::path::Path, Failure> {
        self.data.as_deref().ok_or_else(|| "this experiment needs its data: --data DIR".into())
    }
}

#[derive(Args)]
struct Report {
    /// The folder of results.
    #[arg(long, default_value = "target/experiments")]
    out: PathBuf,
    /// The folder of figures.
    #[arg(long, default_value = "docs/figures")]
    figures: PathBuf,
}

fn main() -> Result<(), Failure> {
    match Options::parse().experiment {
        Experiment::Checks(places) => checks::run(&places),
        Experiment::Detection(settings) => detection::run(&settings),
        Experiment::Cleaning(settings) => cleaning::run(&settings),
        Experiment::Selections(settings) => selections::run(&settings),
        Experiment::Influential(settings) => influential::run(&settings),
        Experiment::DigitsTruth(settings) => digits_truth::run(&settings),
        Experiment::MailTruth(settings) => mail_truth::run(&settings),
        Experiment::Mails(settings) => mails::write(&settings),
        Experiment::Emoji(settings) => emoji::run(&settings),
        Experiment::EmojiInfluence(settings) => emoji::influence::run(&settings),
        Experiment::EasyVqa(settings) => vision::easy_vqa::run(&settings),
        Experiment::Photos(settings) => vision::photos::run(&settings),
        Experiment::Report(Report { out, figures }) => {
            tables::print(&out)?;
            figures::draw(&out, &figures)
        }
        Experiment::DemoAssets(settings) => demo_assets::make(&settings),
    }
}
