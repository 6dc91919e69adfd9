use burn::tensor::{Tensor, TensorData};

use super::schedule::NoiseSchedule;
use crate::ModelError;
use crate::error::check;

/// What a denoiser predicts, from `x_t = √ᾱ x + √(1 − ᾱ) ε`, or `(1 − σ) x + σ ε` for [`Flow`](Self::Flow).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise `ε` (Ho et al. 2020).
    Epsilon,
    /// `√ᾱ ε − √(1 − ᾱ) x` (Salimans & Ho 2022); diffusers' `v_prediction`.
    Velocity,
    /// The image `x`.
    Sample,
    /// `ε − x` with `σ = t / T` (Liu et al. 2023): rectified flow.
    Flow,
}

/// How images become noise, what is predicted, and how the loss weighs timesteps.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `schedule` | see [`NoiseSchedule`] | noise of each timestep; of `Flow` only `timesteps` counts | |
/// | `prediction` | `Epsilon` | the target | |
/// | `min_snr` | none | `γ` of min-SNR weights (Hang et al. 2023) | finite, > 0; not with `Flow` |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseProcess {
    /// The noise of each timestep.
    pub schedule: NoiseSchedule,
    /// The target.
    pub prediction: Prediction,
    /// `γ`: with `s = ᾱ/(1 − ᾱ)`, the weight of a timestep is `min(s, γ)` over `s` for the noise, `s + 1` for the
    /// velocity and 1 for the image.
    pub min_snr: Option<f64>,
}

impl Default for NoiseProcess {
    fn default() -> Self {
        Self { schedule: NoiseSchedule::default(), prediction: Prediction::Epsilon, min_snr: None }
    }
}

/// The numbers of one timestep: `x_t = signal · x + noise · ε`, target `of_image · x + of_noise · ε`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mix {
    pub(crate) signal: f64,
    pub(crate) noise: f64,
    pub(crate) of_image: f64,
    pub(crate) of_noise: f64,
    /// The weight of the loss.
    pub(crate) weight: f64,
}

impl NoiseProcess {
    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.schedule.validate()?;
        let Some(gamma) = self.min_snr else { return Ok(()) };
        check(gamma.is_finite() && gamma > 0.0, "min_snr", gamma, "positive and finite")?;
        check(self.prediction != Prediction::Flow, "min_snr", gamma, "absent: a flow has no signal-to-noise weights")
    }

    /// The numbers of these timesteps, from 0 to `T`; a fraction counts for flows only.
    ///
    /// # Errors
    ///
    /// If a timestep is not below `T` (for flows, not at most `T`), or the settings are invalid.
    pub(crate) fn mixes(&self, timesteps: &[f64]) -> Result<Vec<Mix>, ModelError> {
        self.validate()?;
        let total = self.schedule.timesteps as f64;
        let flow = self.prediction == Prediction::Flow;
        let signal = if flow { Vec::new() } else { self.schedule.signal() };
        let mix = |&t: &f64| {
            let accepted = t >= 0.0 && (t < total || flow && t == total) && (flow || t.fract() == 0.0);
            check(accepted, "timestep", t, "a timestep of the schedule")?;
            Ok(if flow { self.flow(t / total) } else { self.diffusion(signal[t as usize]) })
        };
        timesteps.iter().map(mix).collect()
    }

    fn flow(&self, sigma: f64) -> Mix {
        Mix { signal: 1.0 - sigma, noise: sigma, of_image: -1.0, of_noise: 1.0, weight: 1.0 }
    }

    fn diffusion(&self, level: f64) -> Mix {
        let (signal, noise) = (level.sqrt(), (1.0 - level).sqrt());
        let (of_image, of_noise) = match self.prediction {
            Prediction::Velocity => (-noise, signal),
            Prediction::Sample => (1.0, 0.0),
            Prediction::Epsilon | Prediction::Flow => (0.0, 1.0),
        };
        let ratio = level / (1.0 - level);
        let weight = self.min_snr.map_or(1.0, |gamma| match self.prediction {
            // The ratio may be 0 in the last timestep.
            Prediction::Epsilon | Prediction::Flow => (gamma / ratio).min(1.0),
            Prediction::Velocity => ratio.min(gamma) / (ratio + 1.0),
            Prediction::Sample => ratio.min(gamma),
        });
        Mix { signal, noise, of_image, of_noise, weight }
    }

    /// The weights of the loss at these timesteps.
    ///
    /// # Errors
    ///
    /// As [`noised`](Self::noised).
    pub fn weights(&self, timesteps: &[f64]) -> Result<Vec<f64>, ModelError> {
        Ok(self.mixes(timesteps)?.iter().map(|mix| mix.weight).collect())
    }

    /// The noisy images and the targets of images at timesteps: one timestep, image and noise after the other.
    ///
    /// # Errors
    ///
    /// If a timestep is outside the schedule or the settings are invalid.
    ///
    /// # Panics
    ///
    /// If the counts differ: `m` timesteps, `images` and `noise` both `[m, c, h, w]`.
    pub fn noised(&self, images: Tensor<4>, noise: Tensor<4>, timesteps: &[f64]) -> Result<[Tensor<4>; 2], ModelError> {
        assert_eq!(images.dims(), noise.dims(), "noised: shapes of images and noise");
        assert_eq!(images.dims()[0], timesteps.len(), "noised: timesteps");
        let mixes = self.mixes(timesteps)?;
        let (device, dtype) = (images.device(), images.dtype());
        let column = |value: fn(&Mix) -> f64| {
            let values: Vec<f64> = mixes.iter().map(value).collect();
            Tensor::<4>::from_data(TensorData::new(values, [mixes.len(), 1, 1, 1]), (&device, dtype))
        };
        let of = |image: fn(&Mix) -> f64, of_noise: fn(&Mix) -> f64| {
            images.clone() * column(image) + noise.clone() * column(of_noise)
        };
        Ok([of(|mix| mix.signal, |mix| mix.noise), of(|mix| mix.of_image, |mix| mix.of_noise)])
    }
}
