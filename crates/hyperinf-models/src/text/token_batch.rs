use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::{EncoderConfig, ModelError};

/// A token sequence with its class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sample {
    /// Token ids without padding, at least one.
    pub tokens: Vec<u32>,
    /// The segment of each token: 0 and 1 for a pair of texts. Empty means all 0.
    pub segments: Vec<u32>,
    /// The class, from 0.
    pub label: usize,
}

/// Token sequences of several samples, padded on the right to the longest.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// Token ids `[n, t]`; 0 for padding.
    pub tokens: Tensor<2, Int>,
    /// Segments `[n, t]`; 0 for padding.
    pub segments: Tensor<2, Int>,
    /// True for tokens, false for padding, `[n, t]`.
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
    /// Pads sequences to the longest of them. All segments are 0.
    ///
    /// # Errors
    ///
    /// If there are no sequences, or one is empty, longer than the model accepts or has a token outside the vocabulary.
    pub fn new(sequences: &[&[u32]], config: &EncoderConfig, device: &Device) -> Result<Self, ModelError> {
        Self::with_segments(sequences, &vec![&[][..]; sequences.len()], config, device)
    }

    /// [`new`](Self::new) with the segment of each token; an empty list means all 0.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if a sequence does not have one segment per token or the model has no such segment. A
    /// model without a segment embedding accepts only 0.
    ///
    /// # Panics
    ///
    /// If the numbers of sequences and lists of segments differ.
    pub(crate) fn with_segments(
        sequences: &[&[u32]],
        segments: &[&[u32]],
        config: &EncoderConfig,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let n = sequences.len();
        assert_eq!(n, segments.len(), "lists of segments");
        let t = sequences.iter().map(|s| s.len()).max().ok_or(ModelError::Empty { what: "samples in the batch" })?;
        let mut mask = Vec::with_capacity(n * t);
        for (sample, (sequence, segments)) in sequences.iter().zip(segments).enumerate() {
            check_sequence(sample, sequence, config)?;
            check_segments(sample, segments, sequence.len(), config)?;
            mask.extend((0..t).map(|at| at < sequence.len()));
        }
        let padded = |lists: &[&[u32]]| -> Tensor<2, Int> {
            let values = lists.iter().flat_map(|list| {
                list.iter().map(|&value| i64::from(value)).chain(std::iter::repeat_n(0, t - list.len()))
            });
            Tensor::from_data(TensorData::new(values.collect(), [n, t]), device)
        };
        Ok(Self {
            tokens: padded(sequences),
            segments: padded(segments),
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

fn check_segments(sample: usize, list: &[u32], tokens: usize, config: &EncoderConfig) -> Result<(), ModelError> {
    if !list.is_empty() && list.len() != tokens {
        return Err(ModelError::SegmentCount { sample, segments: list.len(), tokens });
    }
    // Without a segment embedding, 0 is accepted: it has no effect.
    let limit = config.segments.max(1);
    match list.iter().find(|&&segment| segment as usize >= limit) {
        Some(&segment) => Err(ModelError::Segment { sample, segment, limit }),
        None => Ok(()),
    }
}
