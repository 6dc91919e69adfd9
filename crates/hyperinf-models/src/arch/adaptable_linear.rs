use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use hyperinf_gradients::Tape;

use super::lora::Recorded;
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
    /// The layer alone; tapes record its weight and bias.
    Recorded(RecordedLinear),
}

/// A plain layer whose weight and bias are a block of gradients, `{name}.weight`.
#[derive(Module, Debug)]
pub struct RecordedLinear {
    base: Linear,
    #[module(skip)]
    name: String,
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
            Self::Recorded(RecordedLinear { base, name }) if tape.is_recording() => {
                tape.linear(&format!("{name}.weight"), base, input)
            }
            Self::Recorded(RecordedLinear { base, .. }) => hyperinf_ops::linear(base, input),
        }
    }

    /// [`forward`](Self::forward) of rows that belong to `samples` samples, as many to each: on the tape they are the
    /// positions of their sample.
    ///
    /// # Shapes
    ///
    /// `input`: `[rows, t, d_input]`; output: `[rows, t, d_output]`.
    ///
    /// # Panics
    ///
    /// If `samples` does not divide the rows, or the last dimension is not the layer's `d_input`.
    pub fn forward_grouped(&self, input: Tensor<3>, samples: usize, tape: &mut Tape) -> Tensor<3> {
        let [rows, t, d] = input.dims();
        if rows == samples {
            return self.forward(input, tape);
        }
        let output = self.forward(input.reshape([samples, rows / samples * t, d]), tape);
        let d_output = output.dims()[2];
        output.reshape([rows, t, d_output])
    }

    /// The layer without its adapter.
    pub fn base(&self) -> &Linear {
        match self {
            Self::Plain(linear) => linear,
            Self::Lora(lora) => &lora.base,
            Self::Recorded(recorded) => &recorded.base,
        }
    }

    /// The adapted layer, if there is an adapter.
    pub fn adapter(&self) -> Option<&LoraLinear> {
        match self {
            Self::Plain(_) | Self::Recorded(_) => None,
            Self::Lora(lora) => Some(lora),
        }
    }

    /// Makes the layer leave captures as `recorded` says; `name` is the stem of the names of its blocks.
    pub(crate) fn record(&mut self, name: &str, recorded: Recorded) {
        match (&mut *self, recorded.weight) {
            (Self::Lora(lora), _) => lora.recorded = recorded,
            (Self::Plain(base), true) => {
                *self = Self::Recorded(RecordedLinear { base: base.clone(), name: name.to_owned() });
            }
            (Self::Recorded(layer), false) => *self = Self::Plain(layer.base.clone()),
            (Self::Plain(_), false) | (Self::Recorded(_), true) => {}
        }
    }

    /// Adds an adapter; `name` is the stem of the names of its two blocks. A layer that already has one keeps it.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn adapt(&mut self, name: &str, config: &LoraConfig, seed: u64) -> Result<(), ModelError> {
        self.adapt_from(name, config, seed, false)
    }

    /// As [`adapt`](Self::adapt), with a normal first factor if `gaussian`.
    pub(super) fn adapt_from(
        &mut self,
        name: &str,
        config: &LoraConfig,
        seed: u64,
        gaussian: bool,
    ) -> Result<(), ModelError> {
        if self.adapter().is_none() {
            let layer = LoraLinear::new(self.base().clone(), name, config, seed)?;
            *self = Self::Lora(if gaussian { layer.gaussian(config.rank, seed) } else { layer });
        }
        Ok(())
    }
}
