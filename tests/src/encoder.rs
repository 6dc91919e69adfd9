//! BERT, RoBERTa and the pre-LN encoder from their definitions: one sample at a time, plain loops in f64.
//!
//! Weights are looked up by their names in published checkpoints (linear layers as inputs × outputs), so that a
//! wrong name gives a wrong result.

use std::collections::BTreeMap;

use crate::oracle::Matrix;

/// The weights of a classifier by their published names; vectors are one row.
pub type Weights = BTreeMap<String, Matrix>;

/// Which of the published forms is meant.
#[derive(Clone, Debug)]
pub struct Form {
    /// `bert` or `roberta`.
    pub prefix: &'static str,
    /// Number of layers.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// The position of the first token.
    pub first_position: usize,
    /// Whether parts are normalised before, `x + f(norm(x))`, or after, `norm(x + f(x))`.
    pub pre: bool,
    /// Added to the variance.
    pub epsilon: f64,
    /// `gelu`, `tanh` or `relu`.
    pub activation: &'static str,
    /// `mean`, `pooler` or `dense`.
    pub head: &'static str,
    /// The factor of every adapter.
    pub scale: f64,
}

/// The logits of one sample.
pub fn logits(form: &Form, weights: &Weights, tokens: &[u32], segments: &[u32]) -> Vec<f64> {
    let hidden = Model { form, weights }.hidden(tokens, segments);
    let model = Model { form, weights };
    let first = Matrix::from_fn(1, hidden.cols, |_, j| hidden.at(0, j));
    let tanh = |x: &Matrix| Matrix::from_fn(1, x.cols, |_, j| x.at(0, j).tanh());
    let logits = match form.head {
        "mean" => {
            let t = hidden.rows as f64;
            let mean =
                Matrix::from_fn(1, hidden.cols, |_, j| (0..hidden.rows).map(|i| hidden.at(i, j)).sum::<f64>() / t);
            model.linear("classifier", &mean)
        }
        "pooler" => {
            let pooled = tanh(&model.linear(&format!("{}.pooler.dense", form.prefix), &first));
            model.linear("classifier", &pooled)
        }
        "dense" => model.linear("classifier.out_proj", &tanh(&model.linear("classifier.dense", &first))),
        other => panic!("no head is called {other}"),
    };
    logits.values
}

/// `−log p(label)` of one sample.
pub fn loss(form: &Form, weights: &Weights, tokens: &[u32], segments: &[u32], label: usize) -> f64 {
    let logits = logits(form, weights, tokens, segments);
    logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[label]
}

struct Model<'a> {
    form: &'a Form,
    weights: &'a Weights,
}

impl Model<'_> {
    fn weight(&self, name: &str) -> &Matrix {
        self.weights.get(name).unwrap_or_else(|| panic!("no weight is called {name}"))
    }

    /// `x W + b`, plus `scale · x A B` if there is an adapter.
    fn linear(&self, name: &str, x: &Matrix) -> Matrix {
        let bias = self.weight(&format!("{name}.bias"));
        let product = x.times(self.weight(&format!("{name}.weight")));
        let plain = Matrix::from_fn(product.rows, product.cols, |i, j| product.at(i, j) + bias.at(0, j));
        match self.weights.get(&format!("{name}.lora_A.weight")) {
            None => plain,
            Some(a) => plain.plus(self.form.scale, &x.times(a).times(self.weight(&format!("{name}.lora_B.weight")))),
        }
    }

    fn norm(&self, name: &str, x: &Matrix) -> Matrix {
        let (gain, shift) = (self.weight(&format!("{name}.weight")), self.weight(&format!("{name}.bias")));
        let d = x.cols as f64;
        Matrix::from_fn(x.rows, x.cols, |i, j| {
            let mean = x.row(i).iter().sum::<f64>() / d;
            let variance = x.row(i).iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d;
            (x.at(i, j) - mean) / (variance + self.form.epsilon).sqrt() * gain.at(0, j) + shift.at(0, j)
        })
    }

    fn hidden(&self, tokens: &[u32], segments: &[u32]) -> Matrix {
        let prefix = self.form.prefix;
        let table = |name: &str| self.weights.get(&format!("{prefix}.embeddings.{name}.weight"));
        let words = table("word_embeddings").expect("every encoder has these");
        let positions = table("position_embeddings").expect("every encoder has these");
        let mut x = Matrix::from_fn(tokens.len(), words.cols, |i, j| {
            let segment = segments.get(i).map_or(0, |&s| s as usize);
            words.at(tokens[i] as usize, j)
                + positions.at(self.form.first_position + i, j)
                + table("token_type_embeddings").map_or(0.0, |segments| segments.at(segment, j))
        });
        let outer = format!("{prefix}.embeddings.LayerNorm");
        if !self.form.pre {
            x = self.norm(&outer, &x);
        }
        for layer in 0..self.form.layers {
            let name = |part: &str| format!("{prefix}.encoder.layer.{layer}.{part}");
            let (first, second) = (name("attention.output.LayerNorm"), name("output.LayerNorm"));
            if self.form.pre {
                x = x.plus(1.0, &self.attention(&name("attention"), &self.norm(&first, &x)));
                x = x.plus(1.0, &self.feed_forward(&name(""), &self.norm(&second, &x)));
            } else {
                x = self.norm(&first, &x.plus(1.0, &self.attention(&name("attention"), &x)));
                x = self.norm(&second, &x.plus(1.0, &self.feed_forward(&name(""), &x)));
            }
        }
        if self.form.pre { self.norm(&outer, &x) } else { x }
    }

    fn attention(&self, name: &str, x: &Matrix) -> Matrix {
        let [query, key, value] = ["query", "key", "value"].map(|part| self.linear(&format!("{name}.self.{part}"), x));
        let (t, size) = (x.rows, x.cols / self.form.heads);
        let mixed = Matrix::from_fn(t, x.cols, |i, j| {
            let head = j / size * size..(j / size + 1) * size;
            let scores: Vec<f64> = (0..t)
                .map(|k| head.clone().map(|c| query.at(i, c) * key.at(k, c)).sum::<f64>() / (size as f64).sqrt())
                .collect();
            let total: f64 = scores.iter().map(|s| s.exp()).sum();
            (0..t).map(|k| scores[k].exp() / total * value.at(k, j)).sum()
        });
        self.linear(&format!("{name}.output.dense"), &mixed)
    }

    fn feed_forward(&self, name: &str, x: &Matrix) -> Matrix {
        let inner = self.linear(&format!("{name}intermediate.dense"), x);
        let active = Matrix::from_fn(inner.rows, inner.cols, |i, j| activation(self.form.activation, inner.at(i, j)));
        self.linear(&format!("{name}output.dense"), &active)
    }
}

fn activation(name: &str, x: f64) -> f64 {
    match name {
        "gelu" => x * 0.5 * (1.0 + erf(x / 2f64.sqrt())),
        "tanh" => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        "relu" => x.max(0.0),
        other => panic!("no activation is called {other}"),
    }
}

/// The error function: its Taylor series, and further out its continued fraction.
fn erf(x: f64) -> f64 {
    let root = std::f64::consts::PI.sqrt();
    if x.abs() > 3.0 {
        let fraction = (1..100).rev().fold(x.abs(), |fraction, k| x.abs() + f64::from(k) / 2.0 / fraction);
        return x.signum() * (1.0 - (-x * x).exp() / root / fraction);
    }
    let (mut term, mut sum) = (x, x);
    for k in 1..100 {
        let k = f64::from(k);
        term *= -x * x / k;
        sum += term / (2.0 * k + 1.0);
    }
    2.0 / root * sum
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.1, and their asymptotic series at 4.
        for (x, expected) in
            [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0), (3.5, 0.999_999_256_9)]
        {
            assert!((super::erf(x) - expected).abs() < 1e-10, "{x}: {}", super::erf(x));
            assert_eq!(super::erf(-x), -super::erf(x));
        }
    }
}
