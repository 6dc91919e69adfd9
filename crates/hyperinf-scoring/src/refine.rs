//! The inverse of blocks, refined to that of the whole damped curvature.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::{Block, Gradients, same_layout};
use hyperinf_linalg::{precise, scalars, tensor_from_host};

use crate::passes::queries;
use crate::precondition::{BlockInverse, invert};
use crate::{CurvatureFrom, Method, Options, QueryMode, ScoreError, Set, Source};

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
/// [`ScoreError::NothingToRefine`] for a method without curvature; if a block cannot be inverted, or those of `products`.
pub fn refine(
    queries: &Gradients,
    curvature: Vec<BlockCurvature>,
    products: &mut ProductsOf<'_>,
    options: &Options,
    steps: usize,
) -> Result<Refined, ScoreError> {
    options.damping.validate()?;
    if matches!(options.method, Method::Identity) {
        return Err(ScoreError::NothingToRefine);
    }
    let norms: Vec<f64> = squared(queries)?.into_iter().map(f64::sqrt).collect();
    let joined = if options.merged { queries.merged() } else { queries.clone() };
    let known = CurvatureFrom::Known(curvature);
    let inverses = invert(&joined, known, Some(&joined), options, options.damping)?.collect::<Result<Vec<_>, _>>()?;
    let layout = queries.layout.clone();
    let dtype = queries.blocks.first().map_or(DType::F32, |block| block.dtype());
    let mut system = System { inverses, joined: joined.layout.clone(), layout, dtype, products };
    // Of length 1, so that no square leaves the range of the type.
    let rows: Vec<Tensor<2>> = joined.blocks.into_iter().map(|block| precise(block.flatten(1, 2))).collect();
    let units: Vec<f64> = norms.iter().map(|&norm| inverse(norm)).collect();
    let v = system.curved(times(&rows, &units));
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

/// One row per query, in each block `[q, D]`.
type Vectors = Vec<Tensor<2>>;

/// `G + Λ`, and the inverses of its blocks.
struct System<'a, 'p> {
    inverses: Vec<BlockInverse>,
    /// The blocks of the inverses.
    joined: Arc<[Block]>,
    /// The blocks of the products.
    layout: Arc<[Block]>,
    /// The type of the products' directions.
    dtype: DType,
    products: &'a mut ProductsOf<'p>,
}

impl System<'_, '_> {
    /// The rows, with zeros in blocks that have neither curvature nor damping.
    fn curved(&self, rows: Vectors) -> Vectors {
        let keep =
            |(rows, inverse): (Tensor<2>, &BlockInverse)| if inverse.is_zero() { rows.zeros_like() } else { rows };
        rows.into_iter().zip(&self.inverses).map(keep).collect()
    }

    fn precondition(&mut self, rows: &Vectors) -> Result<Vectors, ScoreError> {
        let of = |(inverse, rows): (&mut BlockInverse, &Tensor<2>)| inverse.solve(rows.clone());
        self.inverses.iter_mut().zip(rows).map(of).collect()
    }

    /// `(G + Λ) p`.
    fn multiply(&mut self, rows: &Vectors) -> Result<Vectors, ScoreError> {
        // Directions of length 1 survive a type with a small range.
        let norms: Vec<f64> = dots(rows, rows)?.into_iter().map(f64::sqrt).collect();
        let units: Vec<f64> = norms.iter().map(|&norm| inverse(norm)).collect();
        let directions = self.apart(&times(rows, &units))?;
        let cast = directions.blocks.into_iter().map(|block| block.cast(self.dtype)).collect();
        let found = (self.products)(&Gradients { layout: directions.layout, blocks: cast })?;
        same_layout(&self.layout, &found.layout).map_err(ScoreError::gradients(Set::Train))?;
        let found = if self.is_merged() { found.merged() } else { found };
        let found: Vectors = found.blocks.into_iter().map(|block| precise(block.flatten(1, 2))).collect();
        let damped = times(&self.curved(found), &norms).into_iter().zip(rows).zip(&self.inverses);
        Ok(damped.map(|((product, rows), inverse)| product + rows.clone().mul_scalar(inverse.lambda())).collect())
    }

    fn is_merged(&self) -> bool {
        self.joined != self.layout
    }

    /// The rows in the blocks of the products.
    fn apart(&self, rows: &Vectors) -> Result<Gradients, ScoreError> {
        let mut from = 0;
        let block = |(place, block): (usize, &Block)| {
            let ([q, _], d) = (rows[0].dims(), block.parameters());
            let rows = match self.is_merged() {
                false => rows[place].clone(),
                true => rows[0].clone().narrow(1, from, d),
            };
            from += d;
            rows.reshape([q, block.rows, block.cols])
        };
        let blocks = self.layout.iter().enumerate().map(block).collect();
        Gradients::new(self.layout.clone(), blocks).map_err(ScoreError::gradients(Set::Query))
    }
}

fn squared(rows: &Gradients) -> Result<Vec<f64>, ScoreError> {
    rows.squared_norms().map_err(ScoreError::gradients(Set::Query))
}

fn is_positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

/// `1/value`; 0 of 0.
fn inverse(value: f64) -> f64 {
    if value > 0.0 { 1.0 / value } else { 0.0 }
}

/// The inner product of each pair of rows, over all blocks.
fn dots(a: &Vectors, b: &Vectors) -> Result<Vec<f64>, ScoreError> {
    let mut sums = vec![0.0; a.first().map_or(0, |rows| rows.dims()[0])];
    for (a, b) in a.iter().zip(b) {
        let found = scalars(a.clone(), b.clone())?;
        sums.iter_mut().zip(found).for_each(|(sum, more)| *sum += more);
    }
    Ok(sums)
}

/// Each row times a number; 0 makes a row of zeros, whatever is in it.
fn times(rows: &Vectors, factors: &[f64]) -> Vectors {
    let of = |rows: &Tensor<2>| {
        let [q, _] = rows.dims();
        let column = tensor_from_host(factors.to_vec(), [q, 1], &rows.device(), rows.dtype());
        let zeros = column.clone().equal_elem(0.0).expand(rows.dims());
        (rows.clone() * column).mask_fill(zeros, 0.0)
    };
    rows.iter().map(of).collect()
}

fn plus(a: Vectors, b: Vectors) -> Vectors {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

fn minus(a: &Vectors, b: Vectors) -> Vectors {
    a.iter().zip(b).map(|(a, b)| a.clone() - b).collect()
}

/// The norm of each row over its size.
fn relative(rows: &Vectors, size: &[f64]) -> Result<Vec<f64>, ScoreError> {
    let norms = dots(rows, rows)?.into_iter().map(f64::sqrt);
    Ok(norms.zip(size).map(|(norm, size)| if *size > 0.0 { norm / size } else { 0.0 }).collect())
}
