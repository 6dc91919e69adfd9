//! Products of preconditioned queries with every training gradient.

use burn::tensor::Tensor;
use hyperinf_curvature::CurvatureError;
use hyperinf_gradients::{Block, Gradients, same_layout};
use hyperinf_linalg::{host, host_each, least_square, squared_norms};

use crate::block_rows::{BatchRows, BlockRows};
use crate::part::add;
use crate::precondition::BlockInverse;
use crate::side_by_side::{self, AT_ONCE, is_small};
use crate::{Normalisation, Options, ScoreError, Scores, Set, Source};

/// Products with a batch that are read together: 4 million numbers.
const TOGETHER: usize = 1 << 22;

/// A block whose queries wait for the second pass.
pub(crate) struct Waiting {
    /// Its place in the layout.
    pub(crate) index: usize,
    /// The preconditioned queries of all dampings, `[dampings · q, D]`, row `i` over `2^powers[i]`.
    pub(crate) x: Tensor<2>,
    pub(crate) powers: Vec<i32>,
    /// One per damping.
    pub(crate) inverses: Vec<BlockInverse>,
    /// This block's part of the scores, `[dampings · q, n]`, if it is kept.
    pub(crate) scores: Scores,
    /// The sum of its absolute values, at each damping.
    pub(crate) magnitudes: Vec<f64>,
    /// For inner products without curvature on a device without f64; an accumulated curvature checks this itself.
    pub(crate) underflow: Option<Underflow>,
}

/// Whether the products of a block's gradients are all too small for their type.
#[derive(Default)]
pub(crate) struct Underflow {
    /// A larger product has been found.
    ruled_out: bool,
    /// Training samples, and their squares.
    samples: usize,
    squares: f64,
}

/// The second pass: products of the waiting queries with every training gradient, `[dampings · q, n]`, and the squares
/// of their divisors at each damping.
pub(crate) fn score(
    train: &dyn Source,
    queries: &Gradients,
    waiting: &mut [Waiting],
    options: &Options,
) -> Result<(Scores, Vec<Vec<f64>>), ScoreError> {
    let dampings = waiting.first().map_or(0, |block| block.inverses.len());
    let mut total = Scores { rows: vec![Vec::new(); dampings * queries.samples()] };
    let mut divisors = vec![Vec::new(); dampings];
    let rows_of_x = dampings * queries.samples();
    train.pass(&mut |batch| {
        let Some(mut batch) = BatchRows::new(batch, options.merged, Set::Train)? else { return Ok(()) };
        same_layout(&queries.layout, &batch.layout).map_err(ScoreError::gradients(Set::Train))?;
        let seen = total.samples();
        let mut sum: Option<Scores> = None;
        let mut sums = vec![Vec::new(); dampings];
        let (n, mut of_batch) = (batch.samples(), batch.blocks.iter_mut().map(Some).collect::<Vec<_>>());
        let largest = waiting.iter().map(|block| block.x.dims()[1]).max().unwrap_or(0) * n.max(rows_of_x);
        let small = waiting.first().is_some_and(|b| is_small(&b.x.device(), largest.max(n * rows_of_x)));
        let at_once = if small { AT_ONCE } else { (TOGETHER / (rows_of_x * n).max(1)).max(1) };
        for some in waiting.chunks_mut(at_once) {
            let pairs = some.iter_mut().filter_map(|block| of_batch[block.index].take().map(|rows| (block, rows)));
            let found = match small {
                true => side_by_side::each(pairs, true, |(block, rows)| block.score(rows, queries.samples(), options))?,
                false => together(pairs.collect(), queries.samples(), options)?,
            };
            for (products, squares) in found {
                sums.iter_mut().zip(squares).for_each(|(sums, squares)| add(sums, squares));
                match &mut sum {
                    None => sum = Some(products),
                    Some(sum) => sum.add(&products),
                }
            }
        }
        let sum = sum.unwrap_or_default();
        // NaN and infinity reach every product: only then is it worth looking for their sample.
        if let Some((row, sample, value)) = sum.first_not_finite() {
            batch.squared_norms(seen, Set::Train)?;
            return Err(ScoreError::Overflow { query: row % queries.samples(), sample: seen + sample, value });
        }
        if sums.iter().flatten().any(|square| !square.is_finite()) {
            batch.squared_norms(seen, Set::Train)?;
        }
        divisors.iter_mut().zip(sums).for_each(|(all, sums)| all.extend(sums));
        total.extend(&sum);
        Ok(())
    })?;
    for Waiting { x, inverses, underflow, .. } in waiting {
        if let (Some(underflow), Some(inverted)) = (underflow, inverses.first()) {
            underflow.check(x, &inverted.block)?;
        }
    }
    Ok((total, divisors))
}

/// A block's part of a batch's scores, and of the squares of their divisors at each damping.
type Part = (Scores, Vec<Vec<f64>>);

/// Those of several blocks, whose products are read together: a device is waited for once.
fn together(
    mut pairs: Vec<(&mut Waiting, &mut BlockRows)>,
    queries: usize,
    options: &Options,
) -> Result<Vec<Part>, ScoreError> {
    let started = pairs.iter_mut().map(|(block, rows)| block.start(rows, options));
    let products: Vec<Tensor<2>> = started.collect::<Result<_, _>>()?;
    let products = host_each(&products)?;
    let norms = match options.normalisation {
        Normalisation::Gradient | Normalisation::Cosine => {
            let rows: Vec<&BlockRows> = pairs.iter().map(|(_, rows)| &**rows).collect();
            BlockRows::squared_norms_each(&rows)?.into_iter().map(Some).collect()
        }
        _ => vec![None; pairs.len()],
    };
    let pairs = pairs.into_iter().zip(products).zip(norms);
    pairs.map(|(((block, rows), products), norms)| block.end(rows, &products, norms, queries, options)).collect()
}

impl Waiting {
    /// The products of the queries with a batch's gradients of this block, and the squares of their divisors at each
    /// damping.
    fn score(&mut self, rows: &mut BlockRows, queries: usize, options: &Options) -> Result<Part, ScoreError> {
        let products = host(self.start(rows, options)?)?;
        self.end(rows, &products, None, queries, options)
    }

    /// The products, on the device.
    fn start(&mut self, rows: &mut BlockRows, options: &Options) -> Result<Tensor<2>, ScoreError> {
        if needs_rows(options.normalisation) {
            *rows = BlockRows::Formed(rows.rows());
        } else {
            rows.form_for(self.x.dims()[0]);
        }
        self.inverses.iter().try_for_each(|inverted| inverted.check(rows))?;
        Ok(rows.products(&self.x))
    }

    /// The part that the products, once read, are of; `norms` are the gradients' squared norms, if they are known.
    fn end(
        &mut self,
        rows: &BlockRows,
        products: &[f64],
        norms: Option<Vec<f64>>,
        queries: usize,
        options: &Options,
    ) -> Result<Part, ScoreError> {
        let products = rows.scores(&self.x, products)?.times_powers(&self.powers)?;
        if let Some(underflow) = &mut self.underflow {
            underflow.add(&products, rows)?;
        }
        let squares = match norms {
            Some(norms) => vec![norms; self.inverses.len()],
            None => {
                let squares = self.inverses.iter_mut().map(|inverted| inverted.squares(rows, options.normalisation));
                squares.collect::<Result<_, _>>()?
            }
        };
        for (magnitude, rows) in self.magnitudes.iter_mut().zip(products.rows.chunks(queries)) {
            let more: f64 = rows.iter().flatten().map(|score| score.abs()).sum();
            *magnitude = (*magnitude + more).min(f64::MAX);
        }
        if options.block_scores {
            self.scores.extend(&products);
        }
        Ok((products, squares))
    }
}

/// Whether the divisors of the scores need the gradients themselves.
fn needs_rows(normalisation: Normalisation) -> bool {
    match normalisation {
        Normalisation::LossRelatif | Normalisation::ThetaRelatif => true,
        Normalisation::None | Normalisation::Gradient | Normalisation::Cosine => false,
    }
}

impl Underflow {
    /// Adds a batch of training gradients with their products with the queries.
    fn add(&mut self, products: &Scores, rows: &BlockRows) -> Result<(), ScoreError> {
        let least = least_square(rows.dtype());
        // NaN is not small; the scores report it.
        self.ruled_out = self.ruled_out || !products.rows.iter().flatten().all(|product| product.abs() < least);
        if !self.ruled_out {
            let squares = rows.squared_norms()?;
            self.samples += squares.len();
            self.squares += squares.iter().sum::<f64>();
        }
        Ok(())
    }

    /// Fails if all products are small because the gradients are; those of orthogonal gradients are small as well.
    fn check(&self, x: &Tensor<2>, block: &Block) -> Result<(), ScoreError> {
        let (dtype, least) = (x.dtype(), least_square(x.dtype()));
        let squares: f64 = squared_norms(x.clone())?.iter().sum();
        let d = block.parameters() as f64;
        let mean = (squares / (x.dims()[0] as f64 * d)).sqrt() * (self.squares / (self.samples as f64 * d)).sqrt();
        if !self.ruled_out && mean > 0.0 && mean < least {
            let block = block.name.clone();
            return Err(CurvatureError::TooSmall { block, dtype, mean_square: mean, least }.into());
        }
        Ok(())
    }
}
