use super::math::sigmoid;
use super::{Rows, part};

/// `silu(gate) · up`; a row is one element.
pub(crate) struct SwiGlu<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
}

impl Rows for SwiGlu<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let length = out.len();
        let (gate, up) = (part(self.gate, first, 1, length), part(self.up, first, 1, length));
        for ((y, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(gate) * up;
        }
    }
}

/// The gradient of the gate, `g · up · σ(gate) (1 + gate (1 − σ(gate)))`.
pub(crate) struct GateGradient<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub gradient: &'a [f32],
}

impl Rows for GateGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let length = out.len();
        let (gate, up) = (part(self.gate, first, 1, length), part(self.up, first, 1, length));
        let gradient = part(self.gradient, first, 1, length);
        for (((y, &gate), &up), &g) in out.iter_mut().zip(gate).zip(up).zip(gradient) {
            let s = sigmoid(gate);
            *y = g * up * (s * (1.0 + gate * (1.0 - s)));
        }
    }
}

/// The output gradient, replaced by the gradient of `up`: `g · silu(gate)`.
pub(crate) struct UpGradient<'a> {
    pub gate: &'a [f32],
}

impl Rows for UpGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let gate = part(self.gate, first, 1, out.len());
        for (g, &gate) in out.iter_mut().zip(gate) {
            *g *= gate * sigmoid(gate);
        }
    }
}
