//! The published experiments on text, repeated with this library: `cargo xtask experiments`.
//!
//! Results are JSON lines, one per finished unit of work (a data set, a rank, a seed); a unit whose line is there is
//! not repeated, so that a run can be broken off at any time.

mod checks;
mod data;
mod detection;
mod figures;
mod gradients;
mod influential;
mod judge;
#[allow(dead_code)]
#[path = "../make_demo_assets/mail.rs"]
mod mail;
mod results;
mod tables;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Whatever stops this program; it is run by hand, and the message is all that is needed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Repeats the published experiments on text.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// Real weights: known outputs of MiniLM, SmolLM2 and stories260K.
    Checks(Places),
    /// Wrong labels, found by influence on clean validation samples.
    Detection(detection::Settings),
    /// Training samples of the query's own class, found by influence on it.
    Influential(influential::Settings),
    /// Tables (on standard output) and figures from the results.
    Report(Report),
}

/// Where models, data and results lie.
#[derive(Args, Clone)]
pub struct Places {
    /// The folder of `cargo xtask assets`; `cargo xtask experiments` gives it.
    #[arg(long)]
    pub assets: PathBuf,
    /// A folder with `glue/*.jsonl`, `datainf/*.jsonl` and `tinystories`, as far as they are needed.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Where results are kept.
    #[arg(long, default_value = "target/experiments")]
    pub out: PathBuf,
    /// The device's name, as `hyperinf devices` lists it.
    #[arg(long, default_value = "flex")]
    pub device: String,
}

impl Places {
    /// The data folder, which some parts need.
    pub fn data(&self) -> Result<&std::path::Path, Failure> {
        self.data.as_deref().ok_or_else(|| "this experiment needs its data: --data DIR".into())
    }
}

#[derive(Args)]
struct Report {
    /// Where results are kept.
    #[arg(long, default_value = "target/experiments")]
    out: PathBuf,
    /// Where figures are written.
    #[arg(long, default_value = "docs/figures")]
    figures: PathBuf,
}

fn main() -> Result<(), Failure> {
    match Options::parse().experiment {
        Experiment::Checks(places) => checks::run(&places),
        Experiment::Detection(settings) => detection::run(&settings),
        Experiment::Influential(settings) => influential::run(&settings),
        Experiment::Report(Report { out, figures }) => {
            tables::print(&out)?;
            figures::draw(&out, &figures)
        }
    }
}
