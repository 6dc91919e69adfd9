use super::gelu::{gelu, gelu_derivative};
use super::{Rows, part};

/// `value · gelu(gate)` of rows `[value, gate]` of twice the length.
pub(crate) struct Geglu<'a> {
    pub parts: &'a [f32],
    pub length: usize,
}

impl Rows for Geglu<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let d = self.length;
        let parts = part(self.parts, first, 2 * d, 2 * out.len());
        for (y, parts) in out.chunks_exact_mut(d).zip(parts.chunks_exact(2 * d)) {
            let (value, gate) = parts.split_at(d);
            for ((y, &value), &gate) in y.iter_mut().zip(value).zip(gate) {
                *y = value * gelu(gate);
            }
        }
    }
}

/// The gradients of [`Geglu`]'s rows.
pub(crate) struct GegluGradient<'a> {
    pub parts: &'a [f32],
    pub gradient: &'a [f32],
    pub length: usize,
}

impl Rows for GegluGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let d = self.length;
        let parts = part(self.parts, first, 2 * d, out.len());
        let gradient = part(self.gradient, first, d, out.len() / 2);
        let rows = out.chunks_exact_mut(2 * d).zip(parts.chunks_exact(2 * d)).zip(gradient.chunks_exact(d));
        for ((out, parts), gradient) in rows {
            let ((at_value, at_gate), (value, gate)) = (out.split_at_mut(d), parts.split_at(d));
            for ((at_value, &gate), &g) in at_value.iter_mut().zip(gate).zip(gradient) {
                *at_value = g * gelu(gate);
            }
            for (((at_gate, &value), &gate), &g) in at_gate.iter_mut().zip(value).zip(gate).zip(gradient) {
                *at_gate = g * value * gelu_derivative(gate);
            }
        }
    }
}
