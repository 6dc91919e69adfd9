use super::math::normal;
use super::{Rows, part};

/// `x Φ(x)`; a row is one element.
pub(crate) struct Gelu<'a> {
    pub x: &'a [f32],
}

impl Rows for Gelu<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let x = part(self.x, first, 1, out.len());
        for (y, &x) in out.iter_mut().zip(x) {
            *y = x * normal(x).0;
        }
    }
}

/// The output gradient, multiplied in place by `Φ(x) + x e^(−x²/2) / √(2π)`.
pub(crate) struct GeluGradient<'a> {
    pub x: &'a [f32],
}

impl Rows for GeluGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        /// `1 / √(2π)`.
        const DENSITY: f32 = 0.398_942_3;
        let x = part(self.x, first, 1, out.len());
        for (g, &x) in out.iter_mut().zip(x) {
            let (distribution, bell) = normal(x);
            *g *= distribution + x * (bell * DENSITY);
        }
    }
}
