use burn::tensor::{Tensor, TensorData};
use hyperinf_gradients::Tape;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::TextToImage;
use super::noise::normals;
use super::process::{Mix, NoiseProcess, Prediction};
use super::text_states::{TextState, TextStates};
use crate::ModelError;
use crate::error::check;

/// The settings of [`sample_images`].
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `steps` | 30 | evaluations of the model | 1 to the timesteps of the schedule |
/// | `guidance` | 3 | weight of classifier-free guidance (Ho & Salimans 2022); 1 for none | finite, ≥ 1 |
/// | `clip` | 1 | largest absolute value of the predicted image, none for latents; not with `Flow` | > 0 |
/// | `seed` | 0 | seed of the noise; picture `i` has the same noise in every batch | |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerConfig {
    /// The number of steps.
    pub steps: usize,
    /// `g` in `empty + g (prompt − empty)`.
    pub guidance: f64,
    /// The largest absolute value of the predicted image.
    pub clip: Option<f64>,
    /// The seed of the noise.
    pub seed: u64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self { steps: 30, guidance: 3.0, clip: Some(1.0), seed: 0 }
    }
}

/// Pictures for prompts, `[n, channels, side, side]`: DDIM with `η = 0` and trailing timesteps (Song et al. 2021), or
/// Euler's method for a flow. `empty` holds the states of the empty prompt.
///
/// # Errors
///
/// If a setting is outside its range or prompts do not fit the model.
pub fn sample_images(
    model: &TextToImage,
    prompts: &[&TextState],
    empty: &TextState,
    config: &SamplerConfig,
) -> Result<Tensor<4>, ModelError> {
    let device = model.denoiser.device().without_autodiff();
    let (n, shape) = (prompts.len(), model.denoiser.shape());
    let noise: Vec<f32> = (0..n as u64)
        .flat_map(|i| normals(&mut StdRng::seed_from_u64(config.seed.wrapping_add(i)), shape.iter().product()))
        .collect();
    let data = TensorData::new(noise, [n, shape[0], shape[1], shape[2]]);
    let noise = Tensor::from_data(data, (&device, model.denoiser.dtype()));
    model.sample_from(noise, prompts, empty, config)
}

impl TextToImage {
    /// As [`sample_images`], from this noise, `[n, channels, side, side]`.
    ///
    /// # Errors
    ///
    /// As [`sample_images`].
    ///
    /// # Panics
    ///
    /// If there is not one noise per prompt.
    pub fn sample_from(
        &self,
        noise: Tensor<4>,
        prompts: &[&TextState],
        empty: &TextState,
        config: &SamplerConfig,
    ) -> Result<Tensor<4>, ModelError> {
        let process = &self.process;
        process.validate()?;
        let total = process.schedule.timesteps;
        check((1..=total).contains(&config.steps), "steps", config.steps as f64, "1 to the timesteps of the schedule")?;
        let guidance = config.guidance;
        check(guidance.is_finite() && guidance >= 1.0, "guidance", guidance, "finite and at least 1")?;
        check(config.clip.is_none_or(|clip| clip > 0.0), "clip", config.clip.unwrap_or(0.0), "positive")?;
        let n = prompts.len();
        assert_eq!(noise.dims()[0], n, "sample_from: one noise per prompt");
        let guided = guidance > 1.0;
        let mut all = prompts.to_vec();
        if guided {
            all.resize(2 * n, empty);
        }
        let text = TextStates::new(&all, self.denoiser.text_width(), &noise.device())?;
        let predict = |x: &Tensor<4>, t: f64| {
            if !guided {
                return self.denoiser.forward(x.clone(), &vec![t; n], &text, &mut Tape::off());
            }
            let both = Tensor::cat(vec![x.clone(), x.clone()], 0);
            let both = self.denoiser.forward(both, &vec![t; 2 * n], &text, &mut Tape::off());
            let (with, without) = (both.clone().narrow(0, 0, n), both.narrow(0, n, n));
            without.clone() + (with - without).mul_scalar(guidance)
        };
        let flow = process.prediction == Prediction::Flow;
        let times: Vec<f64> = (0..=config.steps)
            .map(|step| total as f64 * (1.0 - step as f64 / config.steps as f64))
            // A trailing timestep is the last of its part.
            .map(|t| if flow { t } else { t.round() - 1.0 })
            .collect();
        let mut x = noise;
        for pair in times.windows(2) {
            let (now, next) = (pair[0], pair[1]);
            let predicted = predict(&x, now);
            if flow {
                x = x + predicted.mul_scalar((next - now) / total as f64);
                continue;
            }
            let (mut image, noise) = parts(process.prediction, mixes(process, now)?, x, predicted);
            if let Some(clip) = config.clip {
                image = image.clamp(-clip, clip);
            }
            x = if next < 0.0 {
                image
            } else {
                let mix = mixes(process, next)?;
                image.mul_scalar(mix.signal) + noise.mul_scalar(mix.noise)
            };
        }
        Ok(x)
    }
}

fn mixes(process: &NoiseProcess, t: f64) -> Result<Mix, ModelError> {
    Ok(process.mixes(&[t])?[0])
}

/// The image and the noise that a prediction implies.
fn parts(prediction: Prediction, mix: Mix, x: Tensor<4>, predicted: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let Mix { signal, noise, .. } = mix;
    match prediction {
        Prediction::Epsilon | Prediction::Flow => {
            ((x - predicted.clone().mul_scalar(noise)).div_scalar(signal), predicted)
        }
        Prediction::Velocity => (
            x.clone().mul_scalar(signal) - predicted.clone().mul_scalar(noise),
            predicted.mul_scalar(signal) + x.mul_scalar(noise),
        ),
        Prediction::Sample => (predicted.clone(), (x - predicted.mul_scalar(signal)).div_scalar(noise)),
    }
}
