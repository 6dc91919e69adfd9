use super::math::{normal, sigmoid};
use super::{Rows, part};

/// `x Φ(x)`.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

/// `Φ(x) + x e^(−x²/2) / √(2π)`.
#[inline(always)]
pub(super) fn gelu_derivative(x: f32) -> f32 {
    /// `1 / √(2π)`.
    const DENSITY: f32 = 0.398_942_3;
    let (distribution, bell) = normal(x);
    distribution + x * (bell * DENSITY)
}

/// [`gelu`]; a row is one element.
pub(crate) struct Gelu<'a> {
    pub x: &'a [f32],
}

impl Rows for Gelu<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let x = part(self.x, first, 1, out.len());
        for (y, &x) in out.iter_mut().zip(x) {
            *y = gelu(x);
        }
    }
}

/// The output gradient, multiplied in place by [`gelu_derivative`].
pub(crate) struct GeluGradient<'a> {
    pub x: &'a [f32],
}

impl Rows for GeluGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let x = part(self.x, first, 1, out.len());
        for (g, &x) in out.iter_mut().zip(x) {
            *g *= gelu_derivative(x);
        }
    }
}

/// `x σ(β x)`; a row is one element.
pub(crate) struct Swish<'a> {
    pub x: &'a [f32],
    pub slope: f32,
}

impl Rows for Swish<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let x = part(self.x, first, 1, out.len());
        for (y, &x) in out.iter_mut().zip(x) {
            *y = x * sigmoid(self.slope * x);
        }
    }
}

/// The output gradient, multiplied in place by the derivative of [`Swish`].
pub(crate) struct SwishGradient<'a> {
    pub x: &'a [f32],
    pub slope: f32,
}

impl Rows for SwishGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let x = part(self.x, first, 1, out.len());
        for (g, &x) in out.iter_mut().zip(x) {
            let s = sigmoid(self.slope * x);
            *g *= s + s * (1.0 - s) * self.slope * x;
        }
    }
}

/// `2 √(2/π)` and `2 √(2/π) · 0.044715`: with them `tanh` becomes a sigmoid.
const SLOPE: f32 = 1.595_769;
const CUBIC: f32 = 0.071_354_816;

/// `x σ(2 √(2/π) (x + 0.044715 x³))`; a row is one element.
pub(crate) struct GeluTanh<'a> {
    pub x: &'a [f32],
}

impl Rows for GeluTanh<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let x = part(self.x, first, 1, out.len());
        for (y, &x) in out.iter_mut().zip(x) {
            *y = x * sigmoid(x * (SLOPE + CUBIC * x * x));
        }
    }
}

/// The output gradient, multiplied in place by the derivative of [`GeluTanh`].
pub(crate) struct GeluTanhGradient<'a> {
    pub x: &'a [f32],
}

impl Rows for GeluTanhGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let x = part(self.x, first, 1, out.len());
        for (g, &x) in out.iter_mut().zip(x) {
            // Beyond, the derivative is 0 or 1, and the cube of a large number would be infinite.
            let x = if x < -20.0 { -20.0 } else { x };
            let x = if x > 20.0 { 20.0 } else { x };
            let s = sigmoid(x * (SLOPE + CUBIC * x * x));
            *g *= s + s * (1.0 - s) * x * (SLOPE + 3.0 * CUBIC * x * x);
        }
    }
}
