use burn::tensor::Tensor;
use hyperinf_curvature::SampleRows;
use hyperinf_linalg::{epsilon, largest, norms, precise, scalars};

use super::series::{Run, Show};
use super::{GROWN, Lissa};
use crate::SolveError;

/// LiSSA on held samples `R` `[m, D]`, in their coordinates.
///
/// Increments follow `δ ← δ (I − (H + λI)/s)` alone, so that from any `δ = e` on
///
/// ```text
/// δ = a e + C R,   a ← f a,   C ← f C − (a e Rᵀ + C R Rᵀ) / (s m),   f = 1 − λ/s
/// ||δ||² = a² ||e||² + 2 a ⟨C, e Rᵀ⟩ + ⟨C R Rᵀ, C⟩
/// ```
///
/// and `r` is the sum of increments, `(Σ a) e + (Σ C) R`. When the norm has shrunk so far that cancellation would
/// destroy it, the increment is computed in full and becomes the next `e`.
pub(super) struct HeldSeries<'a> {
    pub(super) rows: &'a SampleRows,
    /// `f`.
    pub(super) shrink: f64,
    pub(super) scale: f64,
    /// Norms of the right-hand sides.
    pub(super) norms: &'a [f64],
}

impl HeldSeries<'_> {
    /// Continues from `r` and its next increment, after `step` steps; `show` has seen that `r`.
    pub(super) fn run(
        &self,
        r: Tensor<2>,
        increment: Tensor<2>,
        mut step: usize,
        params: &Lissa,
        mut show: Show<'_>,
    ) -> Result<Run, SolveError> {
        let gram = self.rows.gram_precise();
        let (m, dtype) = (self.rows.dims()[0] as f64, r.dtype());
        let (mut r, mut e) = (precise(r), precise(increment));
        // An increment smaller than this against e would lose its norm to cancellation.
        let least = epsilon(r.dtype()).cbrt();
        let (mut last, mut shown) = (f64::INFINITY, step);
        let sum = |r: &Tensor<2>, e: &Tensor<2>, a_sum: f64, c_sum: &Tensor<2>| {
            r.clone() + e.clone().mul_scalar(a_sum) + self.rows.combine_precise(c_sum.clone())
        };
        loop {
            let along = self.rows.dots_precise(e.clone());
            let bases = self.residuals(&e)?;
            let mut c = along.zeros_like();
            let (mut a, mut a_sum, mut c_sum) = (1.0, 0.0, c.clone());
            let ended = loop {
                let product = c.clone().matmul(gram.clone());
                let crossed = scalars(c.clone(), along.clone().mul_scalar(2.0 * a) + product.clone())?;
                let squares = bases.iter().zip(crossed).zip(self.norms);
                let squares = squares.map(|((base, crossed), norm)| a * a * base * base + crossed / (norm * norm));
                let residuals: Vec<f64> =
                    squares.map(|square| if square < 0.0 { 0.0 } else { square.sqrt() }).collect();
                if let Some(show) = show.as_mut().filter(|_| step > shown) {
                    shown = step;
                    show(step, sum(&r, &e, a_sum, &c_sum).cast(dtype), &residuals);
                }
                let residual = largest(&residuals);
                if residual.is_nan() || residual > GROWN * last.max(1.0) {
                    return Ok(Run { r, steps: step, residuals, grew: true, products: None });
                }
                last = last.min(residual);
                let ended = residual <= params.tolerance || step == params.max_steps;
                let lost = |(found, base): (&f64, &f64)| *found > params.tolerance && *found < least * base;
                if ended || residuals.iter().zip(&bases).any(lost) {
                    break ended;
                }
                a_sum += a;
                c_sum = c_sum + c.clone();
                c = c.mul_scalar(self.shrink) - (along.clone().mul_scalar(a) + product).div_scalar(self.scale * m);
                a *= self.shrink;
                step += 1;
            };
            r = sum(&r, &e, a_sum, &c_sum);
            e = e.mul_scalar(a) + self.rows.combine_precise(c);
            if ended {
                let residuals = self.residuals(&e)?;
                return Ok(Run { r: r.cast(dtype), steps: step, residuals, grew: false, products: None });
            }
        }
    }

    /// The norm of each increment, relative to its right-hand side.
    fn residuals(&self, increment: &Tensor<2>) -> Result<Vec<f64>, SolveError> {
        Ok(norms(increment.clone())?.iter().zip(self.norms).map(|(length, norm)| length / norm).collect())
    }
}
