use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use hyperinf_gradients::Tape;

use crate::{LoraConfig, LoraLinear, ModelError};

/// A linear layer with or without an adapter.
// A model has a few hundred of these; Burn's `Module` is not implemented for boxes.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Projection {
    /// The layer alone; it is not recorded.
    Plain(Linear),
    /// The frozen layer with its adapter; both factors are recorded.
    Lora(LoraLinear),
}

impl Projection {
    /// Applies the layer to `[n, t, d_input]`, which gives `[n, t, d_output]`.
    ///
    /// # Panics
    ///
    /// If the last dimension is not the layer's `d_input`.
    pub fn forward(&self, input: Tensor<3>, tape: &mut Tape) -> Tensor<3> {
        match self {
            Self::Plain(linear) => crate::ops::linear(linear, input),
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

    /// Adds an adapter under a name, the stem of its two blocks' names. A layer that has one already keeps it.
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
