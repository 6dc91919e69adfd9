use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use hyperinf_gradients::Tape;

use crate::{LoraConfig, LoraLinear, ModelError};

/// A linear layer that may have an adapter.
// A model has only a few hundred of these, and Burn does not implement `Module` for boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum AdaptableLinear {
    /// The layer alone; tapes do not record it.
    Plain(Linear),
    /// The frozen layer with its adapter; tapes record both factors.
    Lora(LoraLinear),
}

impl AdaptableLinear {
    /// Applies the layer; the factors of an adapter go through the tape.
    ///
    /// # Shapes
    ///
    /// `input`: `[n, t, d_input]`; output: `[n, t, d_output]`.
    ///
    /// # Panics
    ///
    /// If the last dimension is not the layer's `d_input`.
    pub fn forward(&self, input: Tensor<3>, tape: &mut Tape) -> Tensor<3> {
        match self {
            Self::Plain(linear) => hyperinf_ops::linear(linear, input),
            Self::Lora(lora) => lora.forward(input, tape),
        }
    }

    /// The layer without its adapter.
    pub fn base(&self) -> &Linear {
        match self {
            Self::Plain(linear) => linear,
            Self::Lora(lora) => &lora.base,
        }
    }

    /// The adapted layer, if there is an adapter.
    pub fn adapter(&self) -> Option<&LoraLinear> {
        match self {
            Self::Plain(_) => None,
            Self::Lora(lora) => Some(lora),
        }
    }

    /// Adds an adapter; `name` is the stem of the names of its two blocks. A layer that already has one keeps it.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn adapt(&mut self, name: &str, config: &LoraConfig, seed: u64) -> Result<(), ModelError> {
        if let Self::Plain(linear) = self {
            *self = Self::Lora(LoraLinear::new(linear.clone(), name, config, seed)?);
        }
        Ok(())
    }
}
