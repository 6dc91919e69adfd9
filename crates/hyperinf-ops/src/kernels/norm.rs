use super::math::{sum, sum_both};
use super::{Rows, part};

/// `(x − mean) / √(var + ε) · gain + bias` of each row.
pub(crate) struct LayerNorm<'a> {
    pub x: &'a [f32],
    pub gain: &'a [f32],
    pub bias: &'a [f32],
    pub epsilon: f32,
}

impl Rows for LayerNorm<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let d = self.gain.len();
        let x = part(self.x, first, d, out.len());
        for (y, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let (mean, factor) = moments(x, self.epsilon);
            for (((y, &x), &gain), &bias) in y.iter_mut().zip(x).zip(self.gain).zip(self.bias) {
                *y = (x - mean) * factor * gain + bias;
            }
        }
    }
}

/// The output gradient, replaced by the input gradient: with `h = g · gain` and the normalised `z`,
/// `(h − mean(h) − z mean(h z)) / √(var + ε)`.
pub(crate) struct LayerNormGradient<'a> {
    pub x: &'a [f32],
    pub gain: &'a [f32],
    pub epsilon: f32,
}

impl Rows for LayerNormGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let d = self.gain.len();
        let x = part(self.x, first, d, out.len());
        for (g, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            for (g, &gain) in g.iter_mut().zip(self.gain) {
                *g *= gain;
            }
            through_moments(g, x, self.epsilon);
        }
    }
}

/// `h` of a row, replaced by `(h − mean(h) − z mean(h z)) / √(var + ε)`.
#[inline(always)]
pub(super) fn through_moments(h: &mut [f32], x: &[f32], epsilon: f32) {
    let share = 1.0 / x.len() as f32;
    let (mean, factor) = moments(x, epsilon);
    let level = sum(h, |h| h) * share;
    let slope = sum_both(h, x, |h, x| h * (x - mean)) * factor * share;
    for (h, &x) in h.iter_mut().zip(x) {
        *h = (*h - level - (x - mean) * factor * slope) * factor;
    }
}

/// Mean and `1 / √(var + ε)` of a row. The variance is that of the centred row, so a large mean costs no digits.
#[inline(always)]
pub(super) fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let share = 1.0 / x.len() as f32;
    let mean = sum(x, |x| x) * share;
    let variance = sum(x, |x| (x - mean) * (x - mean)) * share;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// `x / √(mean(x²) + ε) · gain` of each row.
pub(crate) struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub gain: &'a [f32],
    pub epsilon: f32,
}

impl Rows for RmsNorm<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let d = self.gain.len();
        let x = part(self.x, first, d, out.len());
        for (y, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let factor = inverse_root_mean_square(x, self.epsilon);
            for ((y, &x), &gain) in y.iter_mut().zip(x).zip(self.gain) {
                *y = x * factor * gain;
            }
        }
    }
}

/// The output gradient, replaced by the input gradient: with `h = g · gain` and the normalised `z`,
/// `(h − z mean(h z)) / √(mean(x²) + ε)`.
pub(crate) struct RmsNormGradient<'a> {
    pub x: &'a [f32],
    pub gain: &'a [f32],
    pub epsilon: f32,
}

impl Rows for RmsNormGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let d = self.gain.len();
        let share = 1.0 / d as f32;
        let x = part(self.x, first, d, out.len());
        for (g, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let factor = inverse_root_mean_square(x, self.epsilon);
            for (g, &gain) in g.iter_mut().zip(self.gain) {
                *g *= gain;
            }
            let slope = sum_both(g, x, |g, x| g * x) * factor * share;
            for (g, &x) in g.iter_mut().zip(x) {
                *g = (*g - x * factor * slope) * factor;
            }
        }
    }
}

#[inline(always)]
fn inverse_root_mean_square(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum(x, |x| x * x) / x.len() as f32 + epsilon).sqrt()
}
