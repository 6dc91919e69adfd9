use std::f64::consts::TAU;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::ModelError;
use crate::error::check;

/// The two entries of a head that are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotaryPairing {
    /// `i` and `i + size/2`: the checkpoints of Hugging Face.
    Halves,
    /// `2i` and `2i + 1`: the original weights of Llama, llama2.c, and GGUF files of the architecture `llama`.
    Neighbours,
}

/// How the angles are rescaled for sequences longer than those of pre-training.
///
/// Hugging Face's `dynamic` scaling has no variant: up to the original length it is [`None`](RotaryScaling::None), and
/// longer sequences are refused.
#[derive(Clone, Debug, PartialEq)]
pub enum RotaryScaling {
    /// No change.
    None,
    /// Interpolated positions, `θ / factor` (Chen et al. 2023).
    Linear {
        /// The ratio of the new length to the old.
        factor: f64,
    },
    /// Llama 3.1: `θ · (s + (1 − s)/factor)` with the wavelength `λ = 2π/θ` and `s = (original/λ − low)/(high − low)`
    /// clamped to 0..1.
    Llama3 {
        /// The divisor of the lowest frequencies.
        factor: f64,
        /// Frequencies with fewer turns than this within the original length are divided by the whole factor.
        low_frequency_factor: f64,
        /// Frequencies with more turns than this are unchanged.
        high_frequency_factor: f64,
        /// The sequence length of pre-training.
        original_max_tokens: usize,
    },
    /// YaRN (Peng et al. 2023): fast dimensions are unchanged and slow ones interpolated, with a linear ramp from
    /// dimension `d(β_fast)` to `d(β_slow)`, where `d(β) = size · ln(original/(2πβ)) / (2 ln base)`.
    Yarn {
        /// The divisor of interpolated frequencies.
        factor: f64,
        /// The factor of sine and cosine; `1 + ln(factor)/10` in the paper.
        attention_factor: f64,
        /// Turns within the original length at which the ramp starts, usually 32.
        beta_fast: f64,
        /// Turns at which it ends, usually 1.
        beta_slow: f64,
        /// The sequence length of pre-training.
        original_max_tokens: usize,
        /// Whether the ends of the ramp are rounded outwards to whole dimensions, as usual.
        whole_dimensions: bool,
    },
    /// `θ_i / divisor_i`, with divisors from the file (`rope_freqs.weight` in GGUF).
    Divided {
        /// One for each of the `size/2` pairs.
        divisors: Vec<f64>,
    },
}

/// Rotary position embedding (Su et al. 2021): pair `i` of a head is rotated by `position · θ_i`, with
/// `θ_i = base^(−2i/size)` before scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryConfig {
    /// `base`, 10,000 in the paper.
    pub base: f64,
    /// The rescaling of the angles.
    pub scaling: RotaryScaling,
    /// The entries that form a pair.
    pub pairing: RotaryPairing,
}

impl Default for RotaryConfig {
    fn default() -> Self {
        Self { base: 1e4, scaling: RotaryScaling::None, pairing: RotaryPairing::Halves }
    }
}

impl RotaryConfig {
    /// Fails unless the configuration fits heads of this size.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first value outside its range. Required are an even positive `size`, a `base`
    /// above 1, positive finite factors, `low_frequency_factor < high_frequency_factor`, `beta_slow < beta_fast`, and
    /// one divisor per pair.
    pub fn validate(&self, size: usize) -> Result<(), ModelError> {
        let positive = |name, value: f64| check(value.is_finite() && value > 0.0, name, value, "positive and finite");
        check(size >= 2 && size.is_multiple_of(2), "head_size", size as f64, "even and at least 2")?;
        check(self.base.is_finite() && self.base > 1.0, "base", self.base, "above 1 and finite")?;
        match &self.scaling {
            RotaryScaling::None => Ok(()),
            RotaryScaling::Linear { factor } => positive("factor", *factor),
            RotaryScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_max_tokens } => {
                positive("factor", *factor)?;
                positive("low_frequency_factor", *low_frequency_factor)?;
                positive("high_frequency_factor", *high_frequency_factor)?;
                let (low, high) = (*low_frequency_factor, *high_frequency_factor);
                check(low < high, "low_frequency_factor", low, "below `high_frequency_factor`")?;
                check(*original_max_tokens >= 1, "original_max_tokens", *original_max_tokens as f64, "at least 1")
            }
            RotaryScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, original_max_tokens, .. } => {
                positive("factor", *factor)?;
                positive("attention_factor", *attention_factor)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                check(beta_slow < beta_fast, "beta_slow", *beta_slow, "below `beta_fast`")?;
                check(*original_max_tokens >= 1, "original_max_tokens", *original_max_tokens as f64, "at least 1")
            }
            RotaryScaling::Divided { divisors } => {
                check(divisors.len() == size / 2, "divisors", divisors.len() as f64, "half of `head_size` many")?;
                divisors.iter().try_for_each(|&divisor| positive("divisor", divisor))
            }
        }
    }

    /// The angles per position after scaling, `θ_0 … θ_(size/2 − 1)`, in f64.
    pub fn frequencies(&self, size: usize) -> Vec<f64> {
        let pairs = size / 2;
        let plain = (0..pairs).map(|i| self.base.powf(-2.0 * i as f64 / size as f64));
        match &self.scaling {
            RotaryScaling::None => plain.collect(),
            RotaryScaling::Linear { factor } => plain.map(|theta| theta / factor).collect(),
            RotaryScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_max_tokens } => plain
                .map(|theta| {
                    let turns = *original_max_tokens as f64 * theta / TAU;
                    let span = high_frequency_factor - low_frequency_factor;
                    let kept = ((turns - low_frequency_factor) / span).clamp(0.0, 1.0);
                    theta * (kept + (1.0 - kept) / factor)
                })
                .collect(),
            RotaryScaling::Yarn { factor, beta_fast, beta_slow, original_max_tokens, whole_dimensions, .. } => {
                let turning = |turns: f64| {
                    size as f64 * (*original_max_tokens as f64 / (turns * TAU)).ln() / (2.0 * self.base.ln())
                };
                let (mut first, mut last) = (turning(*beta_fast), turning(*beta_slow));
                if *whole_dimensions {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, mut last) = (first.max(0.0), last.min(size as f64 - 1.0));
                if first == last {
                    last += 1e-3;
                }
                plain
                    .enumerate()
                    .map(|(i, theta)| {
                        let interpolated = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                        theta * (1.0 - interpolated) + theta / factor * interpolated
                    })
                    .collect()
            }
            RotaryScaling::Divided { divisors } => {
                plain.zip(divisors).map(|(theta, divisor)| theta / divisor).collect()
            }
        }
    }

    /// The factor of sine and cosine.
    pub(crate) fn magnitude(&self) -> f64 {
        match self.scaling {
            RotaryScaling::Yarn { attention_factor, .. } => attention_factor,
            RotaryScaling::None
            | RotaryScaling::Linear { .. }
            | RotaryScaling::Llama3 { .. }
            | RotaryScaling::Divided { .. } => 1.0,
        }
    }
}

/// Cosines and sines of positions `0..t`, from angles in f64.
///
/// They are computed for every batch: `t · size/2` values cost nothing compared with a forward pass, and the model
/// holds no tables for lengths that never occur.
pub(crate) struct Rotary {
    /// `[t, size/2]`.
    cos: Tensor<2>,
    /// `[t, size/2]`.
    sin: Tensor<2>,
    pairing: RotaryPairing,
}

impl Rotary {
    pub(crate) fn new(config: &RotaryConfig, size: usize, t: usize, device: &Device, dtype: DType) -> Self {
        let frequencies = config.frequencies(size);
        let magnitude = config.magnitude();
        let table = |function: fn(f64) -> f64| {
            let values: Vec<f64> = (0..t)
                .flat_map(|position| frequencies.iter().map(move |theta| magnitude * function(position as f64 * theta)))
                .collect();
            Tensor::from_data(TensorData::new(values, [t, size / 2]), (device, dtype))
        };
        Self { cos: table(f64::cos), sin: table(f64::sin), pairing: config.pairing }
    }

    /// Rotates every head: `[n, heads, t, size]` to the same shape.
    pub(crate) fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, heads, t, size] = x.dims();
        let half = size / 2;
        match self.pairing {
            RotaryPairing::Halves => {
                let (cos, sin) = (self.cos.clone().unsqueeze::<4>(), self.sin.clone().unsqueeze::<4>());
                let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
                let turned = first.clone() * cos.clone() - second.clone() * sin.clone();
                Tensor::cat(vec![turned, second * cos + first * sin], 3)
            }
            RotaryPairing::Neighbours => {
                let x = x.reshape([n, heads, t, half, 2]);
                let place = |table: &Tensor<2>| table.clone().reshape([1, 1, t, half, 1]);
                let (cos, sin) = (place(&self.cos), place(&self.sin));
                let (first, second) = (x.clone().narrow(4, 0, 1), x.narrow(4, 1, 1));
                let turned = first.clone() * cos.clone() - second.clone() * sin.clone();
                Tensor::cat(vec![turned, second * cos + first * sin], 4).reshape([n, heads, t, size])
            }
        }
    }
}
