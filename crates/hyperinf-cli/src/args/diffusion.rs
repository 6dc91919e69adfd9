use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use hyperinf::data::{DiffusionOptions, Timesteps};
use hyperinf::models::{NoiseSharing, TimestepsAs};

/// The loss of a diffusion model. Without defaults: another kind of model refuses every value that is given.
#[derive(Clone, Debug, Args)]
pub(crate) struct DiffusionArgs {
    /// Timesteps of the loss: so many, evenly spaced, or a list as 25,225,425 (of one: `25,`) [default: 10].
    #[arg(long, value_name = "COUNT|LIST", value_parser = timesteps, help_heading = "Diffusion")]
    pub timesteps: Option<Timesteps>,
    /// Whether all rows get the same noise, or each its own [default: shared].
    #[arg(long, value_name = "NOISE", value_parser = noise(), help_heading = "Diffusion")]
    pub noise: Option<NoiseSharing>,
    /// The seed of the noise [default: 0].
    #[arg(long, value_name = "SEED", help_heading = "Diffusion")]
    pub noise_seed: Option<u64>,
    /// Weigh timesteps by min-SNR with this γ (usually 5).
    #[arg(long, value_name = "GAMMA", help_heading = "Diffusion")]
    pub min_snr: Option<f64>,
}

impl DiffusionArgs {
    /// The options, with those that only some commands have; `None` if none is given.
    pub(crate) fn options(
        &self,
        timesteps_as: Option<TimestepsAs>,
        prompt_dropout: Option<f64>,
    ) -> Option<DiffusionOptions> {
        let Self { timesteps, noise, noise_seed, min_snr } = self;
        let none = timesteps.is_none() && noise.is_none() && noise_seed.is_none() && min_snr.is_none();
        if none && timesteps_as.is_none() && prompt_dropout.is_none() {
            return None;
        }
        let usual = DiffusionOptions::default();
        Some(DiffusionOptions {
            timesteps: timesteps.clone().unwrap_or(usual.timesteps),
            timesteps_as: timesteps_as.unwrap_or(usual.timesteps_as),
            noise: noise.unwrap_or(usual.noise),
            seed: noise_seed.unwrap_or(usual.seed),
            min_snr: *min_snr,
            prompt_dropout: prompt_dropout.unwrap_or(usual.prompt_dropout),
        })
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
