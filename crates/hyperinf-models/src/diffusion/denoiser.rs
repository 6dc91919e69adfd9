use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use hyperinf_gradients::Tape;

use super::pixart::PixArt;
use super::text_states::TextStates;
use super::unet::UNet;
use crate::{Adaptable, AdaptableLinear, CheckpointNames};

/// The network that predicts noise or what stands for it.
// A model has one, and Burn does not implement `Module` for boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Denoiser {
    /// A transformer on patches.
    PixArt(PixArt),
    /// A U-Net.
    UNet(UNet),
}

impl Denoiser {
    /// Channels, height and width of a picture or its latents.
    pub fn shape(&self) -> [usize; 3] {
        let (channels, side) = match self {
            Self::PixArt(model) => (model.config().channels, model.config().side),
            Self::UNet(model) => (model.config().channels, model.config().side),
        };
        [channels, side, side]
    }

    /// The width of the text states.
    pub fn text_width(&self) -> usize {
        match self {
            Self::PixArt(model) => model.config().text_width,
            Self::UNet(model) => model.config().text_width,
        }
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        match self {
            Self::PixArt(model) => model.device(),
            Self::UNet(model) => model.device(),
        }
    }

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        match self {
            Self::PixArt(model) => model.dtype(),
            Self::UNet(model) => model.dtype(),
        }
    }

    /// Predictions for noisy images or latents.
    ///
    /// # Shapes
    ///
    /// `x`: `[n · K, channels, side, side]` (a U-Net's may have other sides, multiples of its strides), the `K` rows of a sample together; `timesteps`: `n · K` values; `text`: `n`
    /// prompts; output: as `x`.
    ///
    /// # Panics
    ///
    /// If the shapes do not fit.
    pub fn forward(&self, x: Tensor<4>, timesteps: &[f64], text: &TextStates, tape: &mut Tape) -> Tensor<4> {
        self.forward_with(x, timesteps, text, false, tape)
    }

    /// As [`forward`](Self::forward); with `apart`, the text goes through its layers once per row rather than once per
    /// sample.
    pub(super) fn forward_with(
        &self,
        x: Tensor<4>,
        timesteps: &[f64],
        text: &TextStates,
        apart: bool,
        tape: &mut Tape,
    ) -> Tensor<4> {
        match self {
            Self::PixArt(model) => model.forward_with(x, timesteps, text, apart, tape),
            Self::UNet(model) => model.forward_with(x, timesteps, text, apart, tape),
        }
    }
}

impl Adaptable for Denoiser {
    fn generates_images(&self) -> bool {
        true
    }

    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        match self {
            Self::PixArt(model) => model.visit_layers(visit),
            Self::UNet(model) => model.visit_layers(visit),
        }
    }
}

impl CheckpointNames for Denoiser {
    fn checkpoint_name(&self, path: &str) -> String {
        match self {
            Self::PixArt(model) => model.checkpoint_name(path),
            Self::UNet(model) => model.checkpoint_name(path),
        }
    }
}
