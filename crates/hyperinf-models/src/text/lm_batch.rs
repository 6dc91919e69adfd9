use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::{DecoderConfig, ModelError};

/// A token sequence for a language model, and which of its tokens are predicted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LmSample {
    /// Token ids without padding, at least two.
    pub tokens: Vec<u32>,
    /// One mark per token: whether it counts in the loss, predicted from the tokens before it. Never the first.
    pub scored: Vec<bool>,
}

/// Token sequences of several samples, padded on the right to the longest, and the positions that are scored.
#[derive(Clone, Debug)]
pub struct LmBatch {
    /// Token ids `[n, t]`; 0 for padding.
    pub tokens: Tensor<2, Int>,
    /// The positions that predict a scored token, as rows of the flattened hidden states `[n · t, d]`, sample by
    /// sample: `[m]`.
    pub places: Tensor<1, Int>,
    /// The scored tokens, `[m]`.
    pub targets: Tensor<1, Int>,
    /// The number of scored tokens of each sample, `[n]`. They sum to `m`.
    pub counts: Vec<usize>,
}

impl LmBatch {
    /// Pads samples to the longest of them.
    ///
    /// # Errors
    ///
    /// If there are no samples, or one has fewer than 2 tokens, more tokens than the model accepts, a token outside
    /// the vocabulary, no scored token, a scored first token, or not one mark per token.
    pub fn new(samples: &[&LmSample], config: &DecoderConfig, device: &Device) -> Result<Self, ModelError> {
        let n = samples.len();
        let t =
            samples.iter().map(|s| s.tokens.len()).max().ok_or(ModelError::Empty { what: "samples in the batch" })?;
        let mut tokens = Vec::with_capacity(n * t);
        let (mut places, mut targets, mut counts) = (Vec::new(), Vec::new(), Vec::with_capacity(n));
        for (row, sample) in samples.iter().enumerate() {
            check_sample(row, sample, config)?;
            tokens.extend(sample.tokens.iter().map(|&token| i64::from(token)));
            tokens.extend(std::iter::repeat_n(0, t - sample.tokens.len()));
            let before = targets.len();
            for (position, &token) in sample.tokens.iter().enumerate().filter(|&(i, _)| sample.scored[i]) {
                places.push((row * t + position - 1) as i64);
                targets.push(i64::from(token));
            }
            counts.push(targets.len() - before);
        }
        let m = targets.len();
        Ok(Self {
            tokens: Tensor::from_data(TensorData::new(tokens, [n, t]), device),
            places: Tensor::from_data(TensorData::new(places, [m]), device),
            targets: Tensor::from_data(TensorData::new(targets, [m]), device),
            counts,
        })
    }

    /// The mean of the values of each sample: `[m]` to `[n]`.
    ///
    /// # Panics
    ///
    /// If there are fewer than `m` values.
    pub(crate) fn mean_per_sample(&self, values: Tensor<1>) -> Tensor<1> {
        let (device, dtype, n) = (values.device(), values.dtype(), self.counts.len());
        let shares: Vec<f64> = self.counts.iter().map(|&count| 1.0 / count as f64).collect();
        let shares = Tensor::<1>::from_data(TensorData::new(shares, [n]), (&device, dtype));
        self.sum_per_sample(values) * shares
    }

    /// The sum of the values of each sample: `[m]` to `[n]`.
    ///
    /// # Panics
    ///
    /// If there are fewer than `m` values.
    pub(crate) fn sum_per_sample(&self, values: Tensor<1>) -> Tensor<1> {
        let (n, most) = (self.counts.len(), self.counts.iter().copied().max().unwrap_or(0));
        let device = values.device();
        let (mut rows, mut absent, mut start) = (Vec::with_capacity(n * most), Vec::with_capacity(n * most), 0);
        for &count in &self.counts {
            // Short rows repeat their own first value, so that even masked entries depend on this sample alone.
            rows.extend((0..most).map(|k| (start + if k < count { k } else { 0 }) as i64));
            absent.extend((0..most).map(|k| k >= count));
            start += count;
        }
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [n * most]), &device);
        let absent = Tensor::<2, Bool>::from_data(TensorData::new(absent, [n, most]), &device);
        let sums = values.select(0, rows).reshape([n, most]).mask_fill(absent, 0.0).sum_dim(1);
        sums.squeeze_dim::<1>(1)
    }
}

/// The mean of the hidden states `[n, t, d]` over each sample's own tokens, `[n, d]`.
pub(crate) fn mean_states(hidden: Tensor<3>, lengths: &[usize]) -> Tensor<2> {
    let [n, t, d] = hidden.dims();
    let (device, dtype) = (hidden.device(), hidden.dtype());
    let padding: Vec<bool> = lengths.iter().flat_map(|&length| (0..t).map(move |place| place >= length)).collect();
    let padding = Tensor::<3, Bool>::from_data(TensorData::new(padding, [n, t, 1]), &device).expand([n, t, d]);
    let shares: Vec<f64> = lengths.iter().map(|&length| 1.0 / length as f64).collect();
    let shares = Tensor::<2>::from_data(TensorData::new(shares, [n, 1]), (&device, dtype));
    hidden.mask_fill(padding, 0.0).sum_dim(1).squeeze_dim::<2>(1) * shares
}

fn check_sample(sample: usize, found: &LmSample, config: &DecoderConfig) -> Result<(), ModelError> {
    let (tokens, limit, vocabulary) = (found.tokens.len(), config.max_tokens, config.vocabulary);
    if !(1..=limit).contains(&tokens) {
        return Err(ModelError::Length { sample, tokens, limit });
    }
    if let Some(&token) = found.tokens.iter().find(|&&token| token as usize >= vocabulary) {
        return Err(ModelError::Token { sample, token, vocabulary });
    }
    if found.scored.len() != tokens {
        return Err(ModelError::ScoredLength { sample, tokens, scored: found.scored.len() });
    }
    if found.scored[0] {
        return Err(ModelError::ScoredFirst { sample });
    }
    if found.scored.contains(&true) { Ok(()) } else { Err(ModelError::Unscored { sample, tokens }) }
}
