use burn::tensor::{Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::noise::normals;
use super::sampler::SamplerConfig;
use super::{Denoiser, Pipeline};
use crate::error::check;
use crate::{Limit, ModelError, Picture, TokenizeError};

/// The settings of [`Pipeline::generate`].
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `sampler` | see [`SamplerConfig`] | steps, guidance, seed; `clip` counts without an autoencoder only | |
/// | `side` | the model's | the side of the pictures in pixels | that of a PixArt model; of a U-Net, a multiple of its strides |
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GenerateConfig {
    /// How pictures are drawn.
    pub sampler: SamplerConfig,
    /// The side of the pictures in pixels.
    pub side: Option<usize>,
}

/// Errors of [`Pipeline::generate`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A prompt cannot be tokenized.
    #[error("prompt {prompt}: {source}")]
    Prompt {
        /// The prompt, from 0.
        prompt: usize,
        /// Why.
        source: TokenizeError,
    },
    /// A setting is outside its range, or the model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model's numbers became NaN or infinite.
    #[error("{count} of {values} values of the picture of prompt {prompt} are not finite")]
    NotFinite {
        /// The prompt, from 0.
        prompt: usize,
        /// How many.
        count: usize,
        /// Of how many.
        values: usize,
    },
}

impl Pipeline {
    /// Pictures for prompts. Picture `i` depends on its prompt, `i` and the seed alone.
    ///
    /// # Errors
    ///
    /// If a prompt has more tokens than the text encoder takes, a setting is outside its range, or the device fails.
    pub fn generate(&self, prompts: &[&str], config: &GenerateConfig) -> Result<Vec<Picture>, GenerateError> {
        let side = self.side(config.side)?;
        let [channels, ..] = self.model.denoiser.shape();
        let mut tokens = Vec::new();
        for (prompt, text) in prompts.iter().enumerate() {
            let limit = Limit::Refuse(self.text.positions());
            let found = self.text.tokens(text, limit).map_err(|source| GenerateError::Prompt { prompt, source })?;
            tokens.push(found.sample);
        }
        let limit = Limit::Cut(self.text.positions());
        let empty = self.text.tokens("", limit).map_err(|source| GenerateError::Prompt { prompt: 0, source })?;
        tokens.push(empty.sample);
        let mut sampler = config.sampler;
        if self.images.has_encoder() {
            sampler.clip = None;
        }
        let device = self.model.denoiser.device().without_autodiff();
        let size = channels * side * side;
        let empty = self.states(&tokens[prompts.len()])?;
        let mut pictures = Vec::new();
        // One after the other: batches of large latents would not fit into memory.
        for (prompt, tokens) in tokens[..prompts.len()].iter().enumerate() {
            let seed = sampler.seed.wrapping_add(prompt as u64);
            let noise = TensorData::new(normals(&mut StdRng::seed_from_u64(seed), size), [1, channels, side, side]);
            let noise = Tensor::from_data(noise, (&device, self.model.denoiser.dtype()));
            let found = self.model.sample_from(noise, &[&self.states(tokens)?], &empty, &sampler)?;
            let data = found.try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
            let values: Vec<f32> = data.iter().collect();
            let count = values.iter().filter(|value| !value.is_finite()).count();
            if count > 0 {
                return Err(GenerateError::NotFinite { prompt, count, values: values.len() });
            }
            pictures.push(self.images.decode_square(&values, side)?);
        }
        Ok(pictures)
    }

    fn states(&self, tokens: &[u32]) -> Result<crate::TextState, ModelError> {
        self.text.encode(&[tokens])?.pop().ok_or(ModelError::Empty { what: "prompts" })
    }

    /// The side of what the denoiser sees, for pictures of a side.
    fn side(&self, wanted: Option<usize>) -> Result<usize, ModelError> {
        let [_, own, _] = self.model.denoiser.shape();
        let Some(wanted) = wanted else { return Ok(own) };
        let (factor, expected) = (self.images.factor(), "the model's own, as its positions are");
        let strides = match &self.model.denoiser {
            Denoiser::PixArt(_) => {
                check(wanted == own * factor, "side", wanted as f64, expected)?;
                1
            }
            Denoiser::UNet(model) => 1 << (model.config().levels.len() - 1),
        };
        let accepted = wanted > 0 && wanted.is_multiple_of(factor * strides) && wanted <= 1 << 14;
        check(accepted, "side", wanted as f64, "a multiple of the model's strides, up to 16384")?;
        Ok(wanted / factor)
    }
}
