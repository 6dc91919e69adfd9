use std::hash::{Hash, Hasher};

use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::ModelError;

/// The states of one prompt's tokens from a text encoder, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct TextState {
    /// The width of a state.
    pub width: usize,
    /// `tokens × width` values.
    pub values: Vec<f32>,
}

impl TextState {
    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }
}

impl Hash for TextState {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.width.hash(state);
        self.values.iter().for_each(|value| value.to_bits().hash(state));
    }
}

/// The states of a batch of prompts, padded to the longest.
#[derive(Clone, Debug)]
pub struct TextStates {
    /// `[n, u, width]`.
    pub states: Tensor<3>,
    /// Whether a token is padding, `[n, 1, 1, u]`.
    pub hidden: Tensor<4, Bool>,
}

impl TextStates {
    /// A batch of prompts.
    ///
    /// # Errors
    ///
    /// If there are no prompts, one has no tokens, or its states are not of this width.
    pub fn new(prompts: &[&TextState], width: usize, device: &Device) -> Result<Self, ModelError> {
        let n = prompts.len();
        let longest = prompts.iter().map(|prompt| prompt.tokens()).max().unwrap_or(0);
        if n == 0 {
            return Err(ModelError::Empty { what: "prompts" });
        }
        if prompts.iter().any(|prompt| prompt.tokens() == 0) {
            return Err(ModelError::Empty { what: "tokens in a prompt" });
        }
        if let Some(other) = prompts.iter().find(|prompt| prompt.width != width) {
            let found = vec![other.tokens(), other.width];
            return Err(ModelError::WeightShape {
                name: "text states".to_owned(),
                expected: vec![other.tokens(), width],
                found,
            });
        }
        let (mut values, mut hidden) = (Vec::with_capacity(n * longest * width), Vec::with_capacity(n * longest));
        for prompt in prompts {
            values.extend_from_slice(&prompt.values);
            values.resize(values.len() + (longest - prompt.tokens()) * width, 0.0);
            hidden.extend((0..longest).map(|token| token >= prompt.tokens()));
        }
        Ok(Self {
            states: Tensor::from_data(TensorData::new(values, [n, longest, width]), device),
            hidden: Tensor::from_data(TensorData::new(hidden, [n, 1, 1, longest]), device),
        })
    }
}
