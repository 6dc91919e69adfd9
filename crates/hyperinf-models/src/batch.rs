use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::{EncoderConfig, ModelError};

/// A sequence of tokens with its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Token numbers, not padded, at least one.
    pub tokens: Vec<u32>,
    /// The class, from 0.
    pub label: usize,
}

/// Token sequences of several samples, padded to the longest.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// Token numbers `[n, t]`; 0 where there is padding.
    pub tokens: Tensor<2, Int>,
    /// True where there is a token, `[n, t]`.
    pub mask: Tensor<2, Bool>,
}

/// [`TokenBatch`] with one class per sample.
#[derive(Clone, Debug)]
pub struct LabelledBatch {
    /// The tokens.
    pub tokens: TokenBatch,
    /// The classes, `[n]`.
    pub labels: Tensor<1, Int>,
}

impl TokenBatch {
    /// Pads sequences to the longest of them.
    ///
    /// # Errors
    ///
    /// If there is no sequence, or one is empty, longer than the model's positions or has a token outside the
    /// vocabulary.
    pub fn new(sequences: &[&[u32]], config: &EncoderConfig, device: &Device) -> Result<Self, ModelError> {
        let n = sequences.len();
        let t = sequences.iter().map(|s| s.len()).max().ok_or(ModelError::Empty { what: "samples in the batch" })?;
        let (mut tokens, mut mask) = (Vec::with_capacity(n * t), Vec::with_capacity(n * t));
        for (sample, sequence) in sequences.iter().enumerate() {
            check_sequence(sample, sequence, config)?;
            let padding = t - sequence.len();
            tokens.extend(sequence.iter().map(|&token| i64::from(token)));
            tokens.extend(std::iter::repeat_n(0, padding));
            mask.extend(std::iter::repeat_n(true, sequence.len()));
            mask.extend(std::iter::repeat_n(false, padding));
        }
        Ok(Self {
            tokens: Tensor::from_data(TensorData::new(tokens, [n, t]), device),
            mask: Tensor::from_data(TensorData::new(mask, [n, t]), device),
        })
    }
}

fn check_sequence(sample: usize, sequence: &[u32], config: &EncoderConfig) -> Result<(), ModelError> {
    let (tokens, limit, vocabulary) = (sequence.len(), config.max_tokens, config.vocabulary);
    if !(1..=limit).contains(&tokens) {
        return Err(ModelError::Length { sample, tokens, limit });
    }
    match sequence.iter().find(|&&token| token as usize >= vocabulary) {
        Some(&token) => Err(ModelError::Token { sample, token, vocabulary }),
        None => Ok(()),
    }
}
