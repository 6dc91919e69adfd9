//! The whole damped curvature with the inverses of its blocks, and arithmetic on rows of all blocks.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::{Block, Gradients, same_layout};
use hyperinf_linalg::{precise, scalars, tensor_from_host};

use crate::precondition::{BlockInverse, invert};
use crate::{CurvatureFrom, Method, Normalisation, Options, ProductsOf, ScoreError, Set};

/// One row per query, in each block `[q, D]`.
pub(crate) type Vectors = Vec<Tensor<2>>;

/// `G + Λ`, and the inverses of its blocks.
pub(crate) struct System<'a, 'p> {
    inverses: Vec<BlockInverse>,
    /// The blocks of the inverses.
    joined: Arc<[Block]>,
    /// The blocks of the products.
    layout: Arc<[Block]>,
    /// The type of the products' directions.
    dtype: DType,
    products: &'a mut ProductsOf<'p>,
}

impl<'a, 'p> System<'a, 'p> {
    /// The system of some queries: with it the queries of length 1, so that no square leaves the range of the type, and
    /// their norms.
    pub(crate) fn new(
        queries: &Gradients,
        curvature: Vec<BlockCurvature>,
        products: &'a mut ProductsOf<'p>,
        options: &Options,
    ) -> Result<(Self, Vectors, Vec<f64>), ScoreError> {
        options.damping.validate()?;
        if matches!(options.method, Method::Identity) {
            return Err(ScoreError::NothingToRefine);
        }
        if matches!(options.normalisation, Normalisation::LossRelatif | Normalisation::ThetaRelatif) {
            return Err(ScoreError::RefinedDivisor { normalisation: options.normalisation.name() });
        }
        let norms: Vec<f64> = squared(queries)?.into_iter().map(f64::sqrt).collect();
        let joined = if options.merged { queries.merged() } else { queries.clone() };
        let known = CurvatureFrom::Known(curvature);
        let inverses = invert(&joined, known, Some(&joined), options, options.damping)?.collect::<Result<_, _>>()?;
        let layout = queries.layout.clone();
        let dtype = queries.blocks.first().map_or(DType::F32, |block| block.dtype());
        let system = Self { inverses, joined: joined.layout.clone(), layout, dtype, products };
        let rows: Vectors = joined.blocks.into_iter().map(|block| precise(block.flatten(1, 2))).collect();
        let units: Vec<f64> = norms.iter().map(|&norm| inverse(norm)).collect();
        let v = system.curved(times(&rows, &units));
        Ok((system, v, norms))
    }

    /// The rows, with zeros in blocks that have neither curvature nor damping.
    fn curved(&self, rows: Vectors) -> Vectors {
        let keep =
            |(rows, inverse): (Tensor<2>, &BlockInverse)| if inverse.is_zero() { rows.zeros_like() } else { rows };
        rows.into_iter().zip(&self.inverses).map(keep).collect()
    }

    /// `P r`.
    pub(crate) fn precondition(&mut self, rows: &Vectors) -> Result<Vectors, ScoreError> {
        let of = |(inverse, rows): (&mut BlockInverse, &Tensor<2>)| inverse.solve(rows.clone());
        self.inverses.iter_mut().zip(rows).map(of).collect()
    }

    /// `(G + Λ) p`.
    pub(crate) fn multiply(&mut self, rows: &Vectors) -> Result<Vectors, ScoreError> {
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
    pub(crate) fn apart(&self, rows: &Vectors) -> Result<Gradients, ScoreError> {
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

pub(crate) fn is_positive(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

/// `1/value`; 0 of 0.
fn inverse(value: f64) -> f64 {
    if value > 0.0 { 1.0 / value } else { 0.0 }
}

/// The inner product of each pair of rows, over all blocks.
pub(crate) fn dots(a: &Vectors, b: &Vectors) -> Result<Vec<f64>, ScoreError> {
    let mut sums = vec![0.0; a.first().map_or(0, |rows| rows.dims()[0])];
    for (a, b) in a.iter().zip(b) {
        let found = scalars(a.clone(), b.clone())?;
        sums.iter_mut().zip(found).for_each(|(sum, more)| *sum += more);
    }
    Ok(sums)
}

/// Each row times a number; 0 makes a row of zeros, whatever is in it.
pub(crate) fn times(rows: &Vectors, factors: &[f64]) -> Vectors {
    let of = |rows: &Tensor<2>| {
        let [q, _] = rows.dims();
        let column = tensor_from_host(factors.to_vec(), [q, 1], &rows.device(), rows.dtype());
        let zeros = column.clone().equal_elem(0.0).expand(rows.dims());
        (rows.clone() * column).mask_fill(zeros, 0.0)
    };
    rows.iter().map(of).collect()
}

pub(crate) fn plus(a: Vectors, b: Vectors) -> Vectors {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

pub(crate) fn minus(a: &Vectors, b: Vectors) -> Vectors {
    a.iter().zip(b).map(|(a, b)| a.clone() - b).collect()
}

/// The norm of each row over its size.
pub(crate) fn relative(rows: &Vectors, size: &[f64]) -> Result<Vec<f64>, ScoreError> {
    let norms = dots(rows, rows)?.into_iter().map(f64::sqrt);
    Ok(norms.zip(size).map(|(norm, size)| if *size > 0.0 { norm / size } else { 0.0 }).collect())
}
