use hyperinf_models::{ModelError, NoisePairs, NoiseSharing, TextToImage, TimestepsAs};
use serde_json::{Value, json};

/// The timesteps of a diffusion model's loss.
#[derive(Clone, Debug, PartialEq)]
pub enum Timesteps {
    /// So many, in the middles of equal parts of the schedule.
    Evenly(usize),
    /// These.
    List(Vec<f64>),
}

/// The loss of a text-to-image model: timesteps, noise and weights. Other kinds of models have no such choices.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `timesteps` | 10, evenly | timesteps of the loss that is differentiated and reported | at least one, of the schedule |
/// | `timesteps_as` | sum | what a row's gradient is: that of the mean loss, or one per timestep, side by side | |
/// | `noise` | shared | whether all rows get the same noise | |
/// | `seed` | 0 | the seed of the noise | |
/// | `min_snr` | `None` | `γ` of min-SNR weights (Hang et al. 2023) | finite, > 0 |
/// | `prompt_dropout` | 0.1 | the share of captions that training leaves out | 0 ≤ p < 1 |
#[derive(Clone, Debug, PartialEq)]
pub struct DiffusionOptions {
    /// The timesteps of the loss; training draws its own.
    pub timesteps: Timesteps,
    /// What a row's gradient is.
    pub timesteps_as: TimestepsAs,
    /// Whose noise a row gets.
    pub noise: NoiseSharing,
    /// The seed of the noise.
    pub seed: u64,
    /// `γ` of min-SNR weights.
    pub min_snr: Option<f64>,
    /// The share of captions that training leaves out.
    pub prompt_dropout: f64,
}

impl Default for DiffusionOptions {
    fn default() -> Self {
        Self {
            timesteps: Timesteps::Evenly(10),
            timesteps_as: TimestepsAs::Sum,
            noise: NoiseSharing::Shared,
            seed: 0,
            min_snr: None,
            prompt_dropout: 0.1,
        }
    }
}

impl DiffusionOptions {
    /// Sets the loss of a model.
    pub(crate) fn apply(&self, model: &mut TextToImage) -> Result<(), ModelError> {
        let timesteps = match &self.timesteps {
            Timesteps::Evenly(count) => {
                NoisePairs::evenly(*count, model.process.schedule.timesteps, self.seed)?.timesteps
            }
            Timesteps::List(list) if list.is_empty() => return Err(ModelError::Empty { what: "timesteps" }),
            Timesteps::List(list) => list.clone(),
        };
        let expected = "at least 0 and less than 1";
        if !(0.0..1.0).contains(&self.prompt_dropout) {
            return Err(ModelError::Setting { name: "prompt_dropout", value: self.prompt_dropout, expected });
        }
        model.process.min_snr = self.min_snr;
        model.process.weights(&timesteps)?;
        model.pairs = NoisePairs { timesteps, sharing: self.noise, seed: self.seed };
        model.timesteps_as = self.timesteps_as;
        Ok(())
    }
}

/// The loss of a model, for summaries and keys.
pub(crate) fn described(model: &TextToImage) -> Value {
    let dropout = model.prompt_dropout.as_ref().map(|dropout| dropout.share);
    json!({
        "prediction": format!("{:?}", model.process.prediction).to_lowercase(),
        "timesteps": model.pairs.timesteps,
        "timesteps_as": match model.timesteps_as {
            TimestepsAs::Sum => "sum",
            TimestepsAs::Stacked => "stacked",
        },
        "noise": match model.pairs.sharing {
            NoiseSharing::Shared => "shared",
            NoiseSharing::PerSample => "own",
        },
        "noise_seed": model.pairs.seed,
        "min_snr": model.process.min_snr,
        "prompt_dropout": dropout,
    })
}
