use super::math::{exp, largest, sum, sum_both};
use super::{Rows, part};

/// A mask of hidden keys for scores `[n, heads, t, u]`; sides of 1 have stride 0.
pub(crate) struct Hidden<'a> {
    marks: &'a [u8],
    heads: usize,
    rows: usize,
    strides: [usize; 4],
}

impl<'a> Hidden<'a> {
    /// A mask of shape `dims`, 1 where hidden, for scores of shape `scores`.
    pub(crate) fn new(marks: &'a [u8], dims: [usize; 4], scores: [usize; 4]) -> Self {
        let full = [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1];
        let mut strides = [0; 4];
        for side in 0..4 {
            strides[side] = if dims[side] == 1 { 0 } else { full[side] };
        }
        Self { marks, heads: scores[1], rows: scores[2], strides }
    }

    /// The marks of a row of `u` scores; a single mark applies to the whole row.
    #[inline(always)]
    fn row(&self, row: usize, u: usize) -> &[u8] {
        let (sample, head, query) = (row / (self.heads * self.rows), row / self.rows % self.heads, row % self.rows);
        let start = sample * self.strides[0] + head * self.strides[1] + query * self.strides[2];
        let length = if self.strides[3] == 0 { 1 } else { u };
        &self.marks[start..start + length]
    }
}

/// Rows of scores, replaced by `softmax(scale · scores)` over the keys that are not hidden.
pub(crate) struct AttentionWeights<'a> {
    pub hidden: Hidden<'a>,
    pub scale: f32,
    pub length: usize,
}

impl Rows for AttentionWeights<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        for (index, row) in out.chunks_exact_mut(self.length).enumerate() {
            match self.hidden.row(first + index, self.length) {
                [0] => {
                    for x in row.iter_mut() {
                        *x *= self.scale;
                    }
                }
                [_] => row.fill(f32::NEG_INFINITY),
                marks => {
                    for (x, &mark) in row.iter_mut().zip(marks) {
                        let scaled = *x * self.scale;
                        *x = if mark == 0 { scaled } else { f32::NEG_INFINITY };
                    }
                }
            }
            let top = largest(row);
            if top == f32::NEG_INFINITY && row.iter().all(|&x| x == f32::NEG_INFINITY) {
                row.fill(0.0);
                continue;
            }
            for x in row.iter_mut() {
                *x = exp(*x - top);
            }
            let factor = 1.0 / sum(row, |x| x);
            for x in row.iter_mut() {
                *x *= factor;
            }
        }
    }
}

/// The gradient `g` of the weights `w`, replaced by that of the scores: `scale · w (g − Σ g w)`.
pub(crate) struct AttentionGradient<'a> {
    pub weights: &'a [f32],
    pub scale: f32,
    pub length: usize,
}

impl Rows for AttentionGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let weights = part(self.weights, first, self.length, out.len());
        for (g, w) in out.chunks_exact_mut(self.length).zip(weights.chunks_exact(self.length)) {
            let mean = sum_both(g, w, |g, w| g * w);
            for (g, &w) in g.iter_mut().zip(w) {
                *g = self.scale * w * (*g - mean);
            }
        }
    }
}

/// Each row's largest logit and `log Σ exp(logits − largest)`. They are kept apart because their sum would lose the
/// digits of a loss that is small compared with the logits.
pub(crate) struct CrossEntropy<'a> {
    pub logits: &'a [f32],
    pub classes: usize,
}

impl Rows for CrossEntropy<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let (levels, _) = out.as_chunks_mut::<2>();
        let logits = part(self.logits, first, self.classes, levels.len() * self.classes);
        for (level, row) in levels.iter_mut().zip(logits.chunks_exact(self.classes)) {
            let top = largest(row);
            *level = [top, sum(row, |x| exp(x - top)).ln()];
        }
    }
}

/// Rows of logits, replaced by `g (softmax(logits) − e_target)`.
pub(crate) struct CrossEntropyGradient<'a> {
    /// The two values of [`CrossEntropy`] for each row.
    pub levels: &'a [[f32; 2]],
    pub targets: &'a [usize],
    pub gradient: &'a [f32],
    pub classes: usize,
}

impl Rows for CrossEntropyGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        for (index, row) in out.chunks_exact_mut(self.classes).enumerate() {
            let ([top, level], g) = (self.levels[first + index], self.gradient[first + index]);
            for x in row.iter_mut() {
                *x = g * exp(*x - top - level);
            }
            row[self.targets[first + index]] -= g;
        }
    }
}
