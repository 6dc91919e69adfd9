//! The inverse of blocks, refined by products with a few rows at a time.

use std::cell::Cell;

use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::Gradients;

use crate::refine_system::{System, Vectors, dots, is_positive, minus, plus, relative, times};
use crate::{Options, Refined, Residuals, ScoreError};

/// The products of each row with the curvature of one of many samples of rows; the number says which one.
pub type SampledProductsOf<'a> = dyn FnMut(usize, &Gradients) -> Result<Gradients, ScoreError> + 'a;

/// [`refine`](crate::refine) where a product with all rows costs too much: each step takes products with another sample.
///
/// From `x = P v`, step `t = 1, 2, …` with the curvature `G_t` of its own sample of rows is
///
/// `r = v − (G_t + Λ) x`, `z = P r`, `x ← x + t^(−1/2) ⟨r, z⟩ / ⟨z, (G_t + Λ) z⟩ z`
///
/// (stochastic approximation, Robbins and Monro 1951), and the result the mean of `x` over the last half of the steps
/// (Polyak and Juditsky 1992). Unlike conjugate gradients on one sample, it approaches the solution with all rows: the
/// inverse of one sample's matrix is far from that of all rows where the sample has not many more rows than there are
/// parameters.
///
/// `products` are asked for the sample `t` twice in step `t`, and for sample 0 before and after all steps: [`Residuals`]
/// are against that one. They do not fall below `‖(G_0 − G) x‖ / ‖v‖`, however good `x` is.
///
/// # Errors
///
/// As [`refine`](crate::refine).
pub fn refine_stochastic(
    queries: &Gradients,
    curvature: Vec<BlockCurvature>,
    products: &mut SampledProductsOf<'_>,
    options: &Options,
    steps: usize,
) -> Result<Refined, ScoreError> {
    let sample = Cell::new(0);
    let mut of_sample = |rows: &Gradients| products(sample.get(), rows);
    let (mut system, v, norms) = System::new(queries, curvature, &mut of_sample, options)?;
    let size: Vec<f64> = dots(&v, &v)?.into_iter().map(f64::sqrt).collect();
    let mut x = system.precondition(&v)?;
    let before = relative(&minus(&v, system.multiply(&x)?), &size)?;
    let (mut after, mut taken) = (before.clone(), vec![0; norms.len()]);
    // The mean over the last half, of one step at least.
    let first = steps / 2 + 1;
    let mut mean: Option<Vectors> = None;
    for t in 1..=steps {
        sample.set(t);
        let r = minus(&v, system.multiply(&x)?);
        let z = system.precondition(&r)?;
        let bends = dots(&z, &system.multiply(&z)?)?;
        let length = |(slope, bend): (f64, f64)| {
            let fits = is_positive(slope) && is_positive(bend);
            if fits { slope / bend / (t as f64).sqrt() } else { 0.0 }
        };
        let lengths: Vec<f64> = dots(&r, &z)?.into_iter().zip(bends).map(length).collect();
        taken.iter_mut().zip(&lengths).for_each(|(taken, length)| *taken += usize::from(*length > 0.0));
        x = plus(x, times(&z, &lengths));
        if t >= first {
            let share = 1.0 / (t - first + 1) as f64;
            let weighted = |rows: &Vectors, weight| times(rows, &vec![weight; norms.len()]);
            mean = Some(match mean {
                None => x.clone(),
                Some(mean) => plus(weighted(&mean, 1.0 - share), weighted(&x, share)),
            });
        }
    }
    if let Some(mean) = mean {
        x = mean;
        sample.set(0);
        after = relative(&minus(&v, system.multiply(&x)?), &size)?;
    }
    let rows = system.apart(&times(&x, &norms))?;
    let residuals = before.into_iter().zip(after).zip(taken);
    let residuals = residuals.map(|((before, after), steps)| Residuals { before, after, steps }).collect();
    Ok(Refined { rows, residuals })
}
