use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::DeviceArgs;

/// Arguments of `hyperinf converge`.
#[derive(Debug, Args)]
pub(crate) struct ConvergeArgs {
    /// The sizes d of the matrix, separated by commas.
    #[arg(long, value_name = "SIZES", default_value = "512", value_delimiter = ',')]
    pub dims: Vec<usize>,
    /// The numbers N of samples, separated by commas; each is combined with every d.
    #[arg(long, value_name = "NUMBERS", default_value = "800", value_delimiter = ',')]
    pub samples: Vec<usize>,
    /// Steps of each iteration.
    #[arg(long, value_name = "STEPS", default_value_t = 40)]
    pub steps: usize,
    /// λ, added to the diagonal.
    #[arg(long, value_name = "LAMBDA", default_value_t = 0.01, allow_hyphen_values = true)]
    pub damping_absolute: f64,
    /// Repetitions with other samples; curves show the mean and the spread.
    #[arg(long, value_name = "DRAWS", default_value_t = 3)]
    pub draws: usize,
    /// The seed of the samples and of v.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The floating-point type.
    #[arg(long, value_enum, default_value_t)]
    pub precision: PrecisionArg,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The folder for converge.csv, summary.json and one converge-dD-nN.png per size; created if missing.
    #[arg(long, value_name = "DIR", default_value = "hyperinf-converge")]
    pub out: PathBuf,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

/// The name of a floating-point type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// 32 bits.
    F32,
    /// 64 bits.
    #[default]
    F64,
}
