//! A decoder of the Llama family from its definition: loops over numbers in f64, one text at a time.

use std::f64::consts::PI;

use hyperinf::models::{DecoderConfig, LmHead, RotaryPairing, RotaryScaling};

use crate::oracle::Matrix;

/// The weight of a name: gains near 1, everything else small, rounded to f32 so that a model can hold the same.
/// Linear weights are `[d_input, d_output]`.
pub fn weight(name: &str, shape: &[usize]) -> Matrix {
    let seed = name.bytes().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let (rows, cols) = if let [rows, cols] = shape { (*rows, *cols) } else { (1, shape[0]) };
    let mut noise = Matrix::noise(rows, cols, seed);
    let (offset, scale) = if name.contains("norm") { (1.0, 0.3) } else { (0.0, 0.4) };
    for value in &mut noise.values {
        *value = f64::from((offset + scale * *value) as f32);
    }
    noise
}

/// A decoder with a head, as plain functions of its sizes.
pub struct Oracle<'a> {
    /// The sizes.
    pub config: &'a DecoderConfig,
    /// The head.
    pub head: LmHead,
    /// The weights by Hugging Face's names.
    pub weight: &'a dyn Fn(&str, &[usize]) -> Matrix,
}

impl Oracle<'_> {
    /// The logits `[t, vocabulary]` of one text.
    pub fn logits(&self, tokens: &[u32]) -> Matrix {
        let c = self.config;
        let embedding = (self.weight)("model.embed_tokens.weight", &[c.vocabulary, c.width]);
        let mut x = Matrix::from_fn(tokens.len(), c.width, |i, j| embedding.at(tokens[i] as usize, j));
        for layer in 0..c.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let normed = self.norm(&name("input_layernorm"), &x);
            x = x.plus(1.0, &self.attention(layer, &normed));
            let normed = self.norm(&name("post_attention_layernorm"), &x);
            let gate = self.linear(&name("mlp.gate_proj"), &normed, c.feed_forward, c.feed_forward_bias);
            let up = self.linear(&name("mlp.up_proj"), &normed, c.feed_forward, c.feed_forward_bias);
            let inner = Matrix::from_fn(x.rows, c.feed_forward, |i, j| {
                gate.at(i, j) / (1.0 + (-gate.at(i, j)).exp()) * up.at(i, j)
            });
            x = x.plus(1.0, &self.linear(&name("mlp.down_proj"), &inner, c.width, c.feed_forward_bias));
        }
        let last = self.norm("model.norm", &x);
        match self.head {
            LmHead::Tied => last.times(&embedding.transpose()),
            LmHead::Separate => self.linear("lm_head", &last, c.vocabulary, false),
        }
    }

    fn linear(&self, name: &str, x: &Matrix, cols: usize, bias: bool) -> Matrix {
        let product = x.times(&(self.weight)(&format!("{name}.weight"), &[x.cols, cols]));
        if !bias {
            return product;
        }
        let bias = (self.weight)(&format!("{name}.bias"), &[cols]);
        Matrix::from_fn(product.rows, cols, |i, j| product.at(i, j) + bias.at(0, j))
    }

    fn norm(&self, name: &str, x: &Matrix) -> Matrix {
        let gain = (self.weight)(&format!("{name}.weight"), &[x.cols]);
        Matrix::from_fn(x.rows, x.cols, |i, j| {
            let mean = x.row(i).iter().map(|v| v * v).sum::<f64>() / x.cols as f64;
            x.at(i, j) / (mean + self.config.norm_epsilon).sqrt() * gain.at(0, j)
        })
    }

    fn attention(&self, layer: usize, x: &Matrix) -> Matrix {
        use hyperinf::models::AttentionBias::{All, None};
        let c = self.config;
        let size = c.head_size;
        let project = |part: &str, heads: usize| {
            let name = format!("model.layers.{layer}.self_attn.{part}");
            self.linear(&name, x, heads * size, c.attention_bias != None)
        };
        let query = self.turned(&project("q_proj", c.heads));
        let key = self.turned(&project("k_proj", c.key_value_heads));
        let value = project("v_proj", c.key_value_heads);
        let window = c.sliding_window.filter(|w| layer >= w.first_layer).map_or(usize::MAX, |w| w.size);
        let mut mixed = Matrix::from_fn(x.rows, c.heads * size, |_, _| 0.0);
        for head in 0..c.heads {
            let shared = head / (c.heads / c.key_value_heads);
            for i in 0..x.rows {
                let seen: Vec<usize> = (0..=i).filter(|j| i - j < window).collect();
                let weights: Vec<f64> = seen
                    .iter()
                    .map(|&j| {
                        let product = (0..size).map(|e| query.at(i, head * size + e) * key.at(j, shared * size + e));
                        (product.sum::<f64>() / (size as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for (&j, weight) in seen.iter().zip(&weights) {
                    for e in 0..size {
                        mixed.values[i * c.heads * size + head * size + e] +=
                            weight / total * value.at(j, shared * size + e);
                    }
                }
            }
        }
        let name = format!("model.layers.{layer}.self_attn.o_proj");
        self.linear(&name, &mixed, c.width, c.attention_bias == All)
    }

    /// Every head's pairs as complex numbers, times `e^(i · position · θ)`.
    fn turned(&self, x: &Matrix) -> Matrix {
        let size = self.config.head_size;
        let (theta, magnitude) = angles(self.config);
        let mut turned = x.clone();
        for position in 0..x.rows {
            for head in 0..x.cols / size {
                for (pair, angle) in theta.iter().enumerate() {
                    let (real, imaginary) = match self.config.rotary.pairing {
                        RotaryPairing::Halves => (head * size + pair, head * size + pair + size / 2),
                        RotaryPairing::Neighbours => (head * size + 2 * pair, head * size + 2 * pair + 1),
                    };
                    let (a, b) = (x.at(position, real), x.at(position, imaginary));
                    let (sin, cos) = (position as f64 * angle).sin_cos();
                    turned.values[position * x.cols + real] = magnitude * (a * cos - b * sin);
                    turned.values[position * x.cols + imaginary] = magnitude * (a * sin + b * cos);
                }
            }
        }
        turned
    }
}

/// The angle of each pair, by the papers' formulas as their authors' programs have them, and the factor before sine
/// and cosine.
pub fn angles(config: &DecoderConfig) -> (Vec<f64>, f64) {
    let size = config.head_size as f64;
    let base = config.rotary.base;
    let mut magnitude = 1.0;
    let angles = (0..config.head_size / 2)
        .map(|i| {
            let theta = 1.0 / base.powf(2.0 * i as f64 / size);
            match &config.rotary.scaling {
                RotaryScaling::None => theta,
                RotaryScaling::Linear { factor } => theta / factor,
                RotaryScaling::Divided { divisors } => theta / divisors[i],
                RotaryScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_max_tokens } => {
                    let original = *original_max_tokens as f64;
                    let wavelength = 2.0 * PI / theta;
                    if wavelength < original / high_frequency_factor {
                        theta
                    } else if wavelength > original / low_frequency_factor {
                        theta / factor
                    } else {
                        let smooth = (original / wavelength - low_frequency_factor)
                            / (high_frequency_factor - low_frequency_factor);
                        (1.0 - smooth) * theta / factor + smooth * theta
                    }
                }
                RotaryScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, original_max_tokens, .. } => {
                    magnitude = *attention_factor;
                    let dimension =
                        |turns: f64| size * (*original_max_tokens as f64 / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
                    let low = dimension(*beta_fast).floor().max(0.0);
                    let high = dimension(*beta_slow).ceil().min(size - 1.0);
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 / factor * theta) * ramp + theta * (1.0 - ramp)
                }
            }
        })
        .collect();
    (angles, magnitude)
}
