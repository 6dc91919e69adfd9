use burn::tensor::{DType, Tensor};
use hyperinf_curvature::{CurvatureError, Damping};
use hyperinf_gradients::{Block, Gradients, same_layout};
use hyperinf_linalg::{least_square, precise_type, squared_norms};

use crate::block_rows::{BatchRows, BlockRows};
use crate::passes::queries;
use crate::precondition::{BlockInverse, invert_at_each};
use crate::source::Replayed;
use crate::{Attribution, BlockReport, CurvatureFrom, Method, Normalisation, Options, ScoreError, Scores, Set, Source};

/// Scores of some blocks, before they are normalised.
pub(crate) struct Part {
    pub(crate) scores: Scores,
    pub(crate) blocks: Vec<BlockReport>,
    pub(crate) block_scores: Vec<(Block, Scores)>,
    pub(crate) magnitudes: Vec<(Block, f64)>,
    pub(crate) divisors: Divisors,
}

/// A [`Part`] whose blocks are in the order in which they were scored.
#[derive(Default)]
struct Unordered {
    scores: Scores,
    blocks: Vec<OfBlock>,
    divisors: Divisors,
}

/// What is kept of one block.
struct OfBlock {
    /// Its place in the layout.
    index: usize,
    report: Option<BlockReport>,
    magnitude: f64,
    /// If they are asked for.
    scores: Option<Scores>,
}

/// The squares of the scores' divisors; empty without normalisation.
#[derive(Default)]
pub(crate) struct Divisors {
    /// Of each query.
    pub(crate) query: Vec<f64>,
    /// Of each training sample.
    pub(crate) train: Vec<f64>,
}

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

impl Part {
    /// Scores without reports and divisors.
    pub(crate) fn of_scores(scores: Scores) -> Self {
        let (blocks, block_scores, magnitudes, divisors) = Default::default();
        Self { scores, blocks, block_scores, magnitudes, divisors }
    }

    /// The scores at each damping, from one curvature.
    pub(crate) fn at_each(
        dampings: &[Damping],
        train: &dyn Source,
        curvature: CurvatureFrom<'_>,
        query: &dyn Source,
        options: &Options,
    ) -> Result<Vec<Self>, ScoreError> {
        let queries = queries(query, options)?;
        let replayed = Replayed::new(train);
        let again = matches!((&options.method, &curvature), (Method::Inverse { .. }, CurvatureFrom::Training));
        let train: &dyn Source = if again { &replayed } else { train };
        let mut parts: Vec<Unordered> = dampings.iter().map(|_| Unordered::default()).collect();
        let mut waiting = Vec::new();
        let all = invert_at_each(dampings, train, curvature, &queries, options)?;
        for (index, (inverses, v)) in all.zip(&queries.blocks).enumerate() {
            let (mut inverses, mut later, mut powers) = (inverses?, Vec::new(), Vec::new());
            let without_f64 = precise_type(&v.device(), v.dtype()) != DType::F64;
            let underflow = (without_f64 && inverses.iter().any(BlockInverse::is_identity)).then(Underflow::default);
            for (part, inverted) in parts.iter_mut().zip(&mut inverses) {
                let (found, scores) = inverted.queries(v.clone().flatten(1, 2))?;
                if options.normalisation == Normalisation::Cosine {
                    add(&mut part.divisors.query, found.squared_norms()?);
                }
                let (Some(scores), Some(rows)) = (scores, inverted.rows.take()) else {
                    inverted.release(options.normalisation);
                    later.push(found.x);
                    powers.extend(found.powers);
                    continue;
                };
                let rows = BlockRows::Held(rows);
                inverted.check(&rows)?;
                // The curvature has checked that the gradients are finite.
                scores.check()?;
                add(&mut part.divisors.train, inverted.squares(&rows, options.normalisation)?);
                let (report, kept) = (inverted.report.take(), options.block_scores.then(|| scores.clone()));
                part.blocks.push(OfBlock { index, report, magnitude: scores.magnitude(), scores: kept });
                part.scores.sum(scores)?;
            }
            if !later.is_empty() {
                let scores = Scores { rows: vec![Vec::new(); later.len() * queries.samples()] };
                let magnitudes = vec![0.0; inverses.len()];
                waiting.push(Waiting { index, x: joined(later), powers, inverses, scores, magnitudes, underflow });
            }
        }
        if !waiting.is_empty() {
            let (total, squares) = score(train, &queries, &mut waiting, options)?;
            for ((part, scores), squares) in parts.iter_mut().zip(total.split(queries.samples())).zip(squares) {
                part.scores.sum(scores)?;
                add(&mut part.divisors.train, squares);
            }
            for Waiting { index, inverses, scores, magnitudes, .. } in waiting {
                let scores = scores.split(queries.samples()).zip(magnitudes);
                for ((part, inverted), (scores, magnitude)) in parts.iter_mut().zip(inverses).zip(scores) {
                    let scores = options.block_scores.then_some(scores);
                    part.blocks.push(OfBlock { index, report: inverted.report, magnitude, scores });
                }
            }
        }
        if parts.iter().any(|part| part.scores.samples() == 0) {
            return Err(ScoreError::Empty { set: Set::Train, what: "samples" });
        }
        Ok(parts.into_iter().map(|part| part.ordered(&queries.layout)).collect())
    }

    /// Adds the scores of other blocks of the same samples and queries.
    pub(crate) fn merge(&mut self, other: Self) -> Result<(), ScoreError> {
        self.scores.sum(other.scores)?;
        self.blocks.extend(other.blocks);
        self.block_scores.extend(other.block_scores);
        self.magnitudes.extend(other.magnitudes);
        add(&mut self.divisors.query, other.divisors.query);
        add(&mut self.divisors.train, other.divisors.train);
        Ok(())
    }

    /// The scores over their divisors.
    pub(crate) fn normalised(self) -> Result<Attribution, ScoreError> {
        let Self { mut scores, blocks, mut block_scores, magnitudes, divisors: Divisors { query, train } } = self;
        let (query, train) = (roots(&query, Set::Query)?, roots(&train, Set::Train)?);
        for scores in block_scores.iter_mut().map(|(_, scores)| scores).chain([&mut scores]) {
            for (q, row) in scores.rows.iter_mut().enumerate() {
                for (i, score) in row.iter_mut().enumerate() {
                    *score = divided(*score, query.get(q), train.get(i));
                }
            }
        }
        Ok(Attribution { scores, blocks, block_scores, magnitudes })
    }
}

impl Unordered {
    fn ordered(mut self, layout: &[Block]) -> Part {
        self.blocks.sort_by_key(|block| block.index);
        let (mut blocks, mut block_scores, mut magnitudes) = (Vec::new(), Vec::new(), Vec::new());
        for OfBlock { index, report, magnitude, scores } in self.blocks {
            blocks.extend(report);
            block_scores.extend(scores.map(|scores| (layout[index].clone(), scores)));
            magnitudes.push((layout[index].clone(), magnitude));
        }
        Part { scores: self.scores, blocks, block_scores, magnitudes, divisors: self.divisors }
    }
}

/// Rows below each other; those of one damping are not copied.
fn joined(mut rows: Vec<Tensor<2>>) -> Tensor<2> {
    if rows.len() == 1 { rows.remove(0) } else { Tensor::cat(rows, 0) }
}

/// A score over its divisors. A zero gradient moves nothing and has the score 0.
pub(crate) fn divided(score: f64, query: Option<&f64>, train: Option<&f64>) -> f64 {
    let (query, train) = (query.unwrap_or(&1.0), train.unwrap_or(&1.0));
    match query * train {
        divisor if divisor.is_normal() => score / divisor,
        _ if *query > 0.0 && *train > 0.0 => score / query / train,
        _ => 0.0,
    }
}

/// Smaller squares have lost digits.
const LEAST_SQUARE: f64 = 1e-290;

/// The roots of sums of squares, or of self-influences, which an accurate inverse makes finite and not negative.
pub(crate) fn roots(squares: &[f64], set: Set) -> Result<Vec<f64>, ScoreError> {
    let root = |(sample, &value): (usize, &f64)| {
        if value == 0.0 || (value >= LEAST_SQUARE && value.is_finite()) {
            Ok(value.sqrt())
        } else {
            Err(ScoreError::Divisor { set, sample, value })
        }
    };
    squares.iter().enumerate().map(root).collect()
}

/// Adds the squares of one more block.
pub(crate) fn add(sums: &mut Vec<f64>, more: Vec<f64>) {
    if sums.is_empty() {
        *sums = more;
    } else {
        sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
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
        for Waiting { index, x, powers, inverses, scores, magnitudes, underflow } in waiting.iter_mut() {
            let rows = &mut batch.blocks[*index];
            if needs_rows(options.normalisation) {
                *rows = BlockRows::Formed(rows.rows());
            } else {
                rows.form_for(rows_of_x);
            }
            inverses.iter().try_for_each(|inverted| inverted.check(rows))?;
            let products = rows.products(x)?.times_powers(powers)?;
            if let Some(underflow) = underflow {
                underflow.add(&products, rows)?;
            }
            for (sums, inverted) in sums.iter_mut().zip(inverses) {
                add(sums, inverted.squares(rows, options.normalisation)?);
            }
            for (magnitude, rows) in magnitudes.iter_mut().zip(products.rows.chunks(queries.samples())) {
                let more: f64 = rows.iter().flatten().map(|score| score.abs()).sum();
                *magnitude = (*magnitude + more).min(f64::MAX);
            }
            if options.block_scores {
                scores.extend(&products);
            }
            match &mut sum {
                None => sum = Some(products),
                Some(sum) => sum.add(&products),
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
