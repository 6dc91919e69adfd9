use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use hyperinf::data::{DiffusionOptions, Timesteps};
use hyperinf::models::{NoiseSharing, TimestepsAs};

/// The loss of a diffusion model.
#[derive(Clone, Debug, Args)]
pub(crate) struct DiffusionArgs {
    /// Timesteps of the loss: so many, evenly spaced, or a list as 25,225,425 (of one: `25,`).
    #[arg(long, value_name = "COUNT|LIST", default_value = "10", value_parser = timesteps, help_heading = "Diffusion")]
    pub timesteps: Timesteps,
    /// Whether all rows get the same noise, or each its own.
    #[arg(long, value_name = "NOISE", default_value = "shared", value_parser = noise(), help_heading = "Diffusion")]
    pub noise: NoiseSharing,
    /// The seed of the noise.
    #[arg(long, value_name = "SEED", default_value_t = 0, help_heading = "Diffusion")]
    pub noise_seed: u64,
    /// Weigh timesteps by min-SNR with this γ (usually 5).
    #[arg(long, value_name = "GAMMA", help_heading = "Diffusion")]
    pub min_snr: Option<f64>,
}

impl DiffusionArgs {
    pub(crate) fn options(&self) -> DiffusionOptions {
        let Self { timesteps, noise, noise_seed, min_snr } = self.clone();
        DiffusionOptions { timesteps, noise, seed: noise_seed, min_snr, ..DiffusionOptions::default() }
    }
}

fn timesteps(typed: &str) -> Result<Timesteps, String> {
    let wrong = |_| "write a number of timesteps, or a list of them as 25,225,425".to_owned();
    match typed.contains(',') {
        false => typed.parse().map(Timesteps::Evenly).map_err(|_| wrong(())),
        true => {
            let list = typed.trim_end_matches(',').split(',').map(|t| t.trim().parse::<f64>().map_err(|_| wrong(())));
            list.collect::<Result<_, _>>().map(Timesteps::List)
        }
    }
}

fn noise() -> impl TypedValueParser<Value = NoiseSharing> {
    PossibleValuesParser::new(["shared", "own"])
        .map(|name| if name == "own" { NoiseSharing::PerSample } else { NoiseSharing::Shared })
}

pub(super) fn timesteps_as() -> impl TypedValueParser<Value = TimestepsAs> {
    PossibleValuesParser::new(["sum", "stacked"])
        .map(|name| if name == "stacked" { TimestepsAs::Stacked } else { TimestepsAs::Sum })
}
