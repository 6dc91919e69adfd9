//! The inverse of blocks, refined to that of the whole damped curvature.

use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::Gradients;

use crate::passes::queries;
use crate::refine_system::{System, dots, is_positive, minus, plus, relative, times};
use crate::{Options, QueryMode, ScoreError, Source};

/// The product of a curvature over all blocks with each row, such as
/// [`gauss_newton_products`](hyperinf_gradients::gauss_newton_products) of a model.
pub type ProductsOf<'a> = dyn FnMut(&Gradients) -> Result<Gradients, ScoreError> + 'a;

/// Queries after the inverse of the whole damped curvature.
#[derive(Clone, Debug)]
pub struct Refined {
    /// `X`, row `i` for query `i`: its inner products with training gradients are the scores. In f64 where the device has
    /// it.
    pub rows: Gradients,
    /// How far each row is from the solution.
    pub residuals: Vec<Residuals>,
}

/// The relative residual of a query, `‖v − (G + Λ) x‖ / ‖v‖`; 0 for a query of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Residuals {
    /// Of the inverse of the blocks.
    pub before: f64,
    /// Of the refined inverse, from the definition.
    pub after: f64,
    /// The steps that were taken: fewer than asked for where the residual is 0, or rounding leaves no direction of
    /// positive curvature.
    pub steps: usize,
}

/// The gradients of all queries of a source, or their mean.
///
/// # Errors
///
/// If there are no queries or a gradient is not finite.
pub fn query_gradients(source: &dyn Source, mode: QueryMode) -> Result<Gradients, ScoreError> {
    queries(source, &Options { query: mode, merged: false, ..Options::default() })
}

/// Solves `(G + Λ) x = v` for each query by conjugate gradients over all blocks jointly, in some steps from
/// `x = P v`.
///
/// `P` is the inverse of each block (or of all merged) of `curvature` by the options' method and damping; it is also the
/// preconditioner. `Λ` is the damping of these inverses: `λ_l I` for block `l`. `G`, which is never formed, is symmetric
/// and positive semi-definite; `products` multiplies rows with it. Blocks without curvature and damping stay 0.
///
/// Every step lowers `(x − x*)ᵀ (G + Λ) (x − x*)`, where `x*` is the solution; the residual may rise on the way. The step's
/// directions are orthogonalised against the residual's change (Polak and Ribière 1969), which is the same for a `P` and
/// products without error, and does not go astray where they have some. It takes `steps + 2` products with each query,
/// and one without steps.
///
/// # Errors
///
/// [`ScoreError::NothingToRefine`] for a method without curvature; [`ScoreError::RefinedDivisor`] for a normalisation that
/// needs the inverse for every training row; if a block cannot be inverted, or those of `products`.
pub fn refine(
    queries: &Gradients,
    curvature: Vec<BlockCurvature>,
    products: &mut ProductsOf<'_>,
    options: &Options,
    steps: usize,
) -> Result<Refined, ScoreError> {
    let (mut system, v, norms) = System::new(queries, curvature, products, options)?;
    let size: Vec<f64> = dots(&v, &v)?.into_iter().map(f64::sqrt).collect();

    let mut x = system.precondition(&v)?;
    let mut r = minus(&v, system.multiply(&x)?);
    let before = relative(&r, &size)?;
    let (mut after, mut taken) = (before.clone(), vec![0; norms.len()]);
    let mut z = if steps > 0 { system.precondition(&r)? } else { Vec::new() };
    let mut slope = if steps > 0 { dots(&z, &r)? } else { vec![0.0; norms.len()] };
    let mut p = z.clone();
    for _ in 0..steps {
        if !slope.iter().any(|&slope| is_positive(slope)) {
            break;
        }
        let product = system.multiply(&p)?;
        let (along, bend) = (dots(&r, &p)?, dots(&p, &product)?);
        let fits =
            |&(along, bend, slope): &(f64, f64, f64)| is_positive(bend) && is_positive(slope) && along.is_finite();
        let all: Vec<_> = along.into_iter().zip(bend).zip(&slope).map(|((a, b), &s)| (a, b, s)).collect();
        let lengths: Vec<f64> = all.iter().map(|of| if fits(of) { of.0 / of.1 } else { 0.0 }).collect();
        taken.iter_mut().zip(&all).for_each(|(taken, of)| *taken += usize::from(fits(of)));
        x = plus(x, times(&p, &lengths));
        let next = minus(&r, times(&product, &lengths));
        z = system.precondition(&next)?;
        let (new, old) = (dots(&z, &next)?, dots(&z, &r)?);
        let factor = |((new, old), of): ((&f64, f64), &(f64, f64, f64))| {
            if fits(of) { ((new - old) / of.2).max(0.0) } else { 0.0 }
        };
        let factors: Vec<f64> = new.iter().zip(old).zip(&all).map(factor).collect();
        // A query that has ended has no direction, which costs no product.
        slope = new.iter().zip(&all).map(|(&new, of)| if fits(of) { new } else { 0.0 }).collect();
        let goes_on: Vec<f64> = slope.iter().map(|&slope| f64::from(u8::from(is_positive(slope)))).collect();
        p = times(&plus(z.clone(), times(&p, &factors)), &goes_on);
        r = next;
    }
    if taken.iter().any(|&steps| steps > 0) {
        after = relative(&minus(&v, system.multiply(&x)?), &size)?;
    }
    let rows = system.apart(&times(&x, &norms))?;
    let residuals = before.into_iter().zip(after).zip(taken);
    let residuals = residuals.map(|((before, after), steps)| Residuals { before, after, steps }).collect();
    Ok(Refined { rows, residuals })
}
