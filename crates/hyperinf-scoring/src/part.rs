use burn::tensor::Tensor;
use hyperinf_curvature::CurvatureError;
use hyperinf_gradients::{Block, Gradients};
use hyperinf_linalg::{dots, least_square, squared_norms};

use crate::passes::{each_batch, queries, read_rows, squares};
use crate::precondition::{Curved, Inverted, invert};
use crate::{BlockReport, Normalisation, Options, ScoreError, Scores, Set, Source};

/// Scores of some blocks, before they are normalised.
pub(crate) struct Part {
    pub(crate) scores: Scores,
    pub(crate) blocks: Vec<BlockReport>,
    pub(crate) block_scores: Vec<(Block, Scores)>,
    pub(crate) divisors: Divisors,
}

/// The squares of what scores are divided by; empty where they are not.
#[derive(Default)]
pub(crate) struct Divisors {
    /// Of each query.
    pub(crate) query: Vec<f64>,
    /// Of each training sample.
    pub(crate) train: Vec<f64>,
}

/// A block whose queries wait for the second pass.
struct Waiting {
    /// Its place in the layout.
    index: usize,
    x: Tensor<2>,
    inverted: Inverted,
    scores: Scores,
    /// For inner products without curvature, which sees to this otherwise.
    underflow: Option<Underflow>,
}

/// Whether the products of a block's gradients are all below what their type holds.
#[derive(Default)]
struct Underflow {
    /// A product has been found that is not.
    none: bool,
    /// Training samples, and their squares.
    samples: usize,
    squares: f64,
}

impl Part {
    pub(crate) fn of(
        train: &dyn Source,
        curvature: Curved<'_>,
        query: &dyn Source,
        options: &Options,
    ) -> Result<Self, ScoreError> {
        let queries = queries(query, options)?;
        let mut part = Self::empty();
        let mut reports = Vec::new();
        let mut block_scores = Vec::new();
        let mut waiting = Vec::new();
        let inverses = invert(train, curvature, Some(&queries), options)?;
        for (index, (inverted, v)) in inverses.zip(&queries.blocks).enumerate() {
            let mut inverted = inverted?;
            let (x, products) = inverted.queries(v.clone().flatten(1, 2))?;
            if options.normalisation == Normalisation::Cosine {
                add(&mut part.divisors.query, squared_norms(x.clone())?);
            }
            let (Some(products), Some(rows)) = (products, inverted.rows.take()) else {
                let scores = Scores { rows: vec![Vec::new(); queries.samples()] };
                let underflow = inverted.is_identity().then(Underflow::default);
                inverted.release(options.normalisation);
                waiting.push(Waiting { index, x, inverted, scores, underflow });
                continue;
            };
            inverted.check(&rows)?;
            let scores = read_rows(products)?;
            // The curvature saw that the gradients are finite.
            scores.check()?;
            add(&mut part.divisors.train, inverted.squares(&rows, options.normalisation)?);
            if options.block_scores {
                block_scores.push((index, scores.clone()));
            }
            part.sum(scores)?;
            reports.push((index, inverted.report));
        }
        if !waiting.is_empty() {
            let (total, squares) = score(train, &queries, &mut waiting, options)?;
            part.sum(total)?;
            add(&mut part.divisors.train, squares);
            for Waiting { index, inverted, scores, .. } in waiting {
                if options.block_scores {
                    block_scores.push((index, scores));
                }
                reports.push((index, inverted.report));
            }
        }
        if part.scores.samples() == 0 {
            return Err(ScoreError::Empty { set: Set::Train, what: "samples" });
        }
        reports.sort_by_key(|(index, _)| *index);
        block_scores.sort_by_key(|(index, _)| *index);
        part.blocks = reports.into_iter().filter_map(|(_, report)| report).collect();
        part.block_scores =
            block_scores.into_iter().map(|(index, scores)| (queries.layout[index].clone(), scores)).collect();
        Ok(part)
    }

    fn empty() -> Self {
        Self { scores: Scores::default(), blocks: Vec::new(), block_scores: Vec::new(), divisors: Divisors::default() }
    }

    fn sum(&mut self, scores: Scores) -> Result<(), ScoreError> {
        if self.scores.queries() == 0 {
            self.scores = scores;
            return Ok(());
        }
        self.scores.add_same(&scores)
    }

    /// Adds the scores of other blocks of the same samples and queries.
    pub(crate) fn merge(&mut self, other: Self) -> Result<(), ScoreError> {
        self.scores.add_same(&other.scores)?;
        self.blocks.extend(other.blocks);
        self.block_scores.extend(other.block_scores);
        add(&mut self.divisors.query, other.divisors.query);
        add(&mut self.divisors.train, other.divisors.train);
        Ok(())
    }

    /// Divides all scores by what the normalisation asks for.
    pub(crate) fn normalise(&mut self) -> Result<(), ScoreError> {
        let Divisors { query, train } = std::mem::take(&mut self.divisors);
        let (query, train) = (roots(&query, Set::Query)?, roots(&train, Set::Train)?);
        let blocks = self.block_scores.iter_mut().map(|(_, scores)| scores);
        for scores in blocks.chain([&mut self.scores]) {
            for (q, row) in scores.rows.iter_mut().enumerate() {
                for (i, score) in row.iter_mut().enumerate() {
                    *score = divided(*score, query.get(q), train.get(i));
                }
            }
        }
        Ok(())
    }
}

/// A score over the divisors that there are. What does not move anything, a zero gradient, helps and harms nothing.
pub(crate) fn divided(score: f64, query: Option<&f64>, train: Option<&f64>) -> f64 {
    let divisor = query.unwrap_or(&1.0) * train.unwrap_or(&1.0);
    if divisor > 0.0 { score / divisor } else { 0.0 }
}

/// The roots of sums of squares, or of self-influences: finite, and not negative where the inverse is what it should
/// be.
pub(crate) fn roots(squares: &[f64], set: Set) -> Result<Vec<f64>, ScoreError> {
    let root = |(sample, &value): (usize, &f64)| {
        if value >= 0.0 && value.is_finite() {
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

/// The second pass: products of the waiting queries with every training gradient, and the squares of their divisors.
fn score(
    train: &dyn Source,
    queries: &Gradients,
    waiting: &mut [Waiting],
    options: &Options,
) -> Result<(Scores, Vec<f64>), ScoreError> {
    let mut total = Scores { rows: vec![Vec::new(); queries.samples()] };
    let mut divisors = Vec::new();
    each_batch(train, options.merged, Set::Train, &mut |gradients| {
        gradients.same_layout(queries).map_err(ScoreError::gradients(Set::Train))?;
        let seen = total.samples();
        let mut sum: Option<Scores> = None;
        let mut sums = Vec::new();
        for Waiting { index, x, inverted, scores, underflow } in waiting.iter_mut() {
            let rows: Tensor<2> = gradients.blocks[*index].clone().flatten(1, 2);
            inverted.check(&rows)?;
            let products = read_rows(dots(x.clone(), rows.clone()))?;
            if let Some(underflow) = underflow {
                underflow.add(&products, &rows)?;
            }
            add(&mut sums, inverted.squares(&rows, options.normalisation)?);
            if options.block_scores {
                scores.extend(&products);
            }
            match &mut sum {
                None => sum = Some(products),
                Some(sum) => sum.add(&products),
            }
        }
        let sum = sum.unwrap_or_default();
        // NaN and infinity reach every product: only then it is worth asking whose they are.
        if let Some((query, sample, value)) = sum.first_not_finite() {
            squares(&gradients, seen, Set::Train)?;
            return Err(ScoreError::Overflow { query, sample: seen + sample, value });
        }
        if sums.iter().any(|square| !square.is_finite()) {
            squares(&gradients, seen, Set::Train)?;
        }
        divisors.extend(sums);
        total.extend(&sum);
        Ok(())
    })?;
    for Waiting { x, inverted, underflow, .. } in waiting {
        if let Some(underflow) = underflow {
            underflow.check(x, &inverted.block)?;
        }
    }
    Ok((total, divisors))
}

impl Underflow {
    /// Adds a batch of training gradients `[n, D]` with their products with the queries.
    fn add(&mut self, products: &Scores, rows: &Tensor<2>) -> Result<(), ScoreError> {
        let least = least_square(rows.dtype());
        // NaN is no small product, and is told elsewhere.
        self.none = self.none || !products.rows.iter().flatten().all(|product| product.abs() < least);
        if !self.none {
            self.samples += rows.dims()[0];
            self.squares += squared_norms(rows.clone())?.iter().sum::<f64>();
        }
        Ok(())
    }

    /// Fails if all products are small because the gradients are; those of orthogonal gradients are small as well.
    fn check(&self, x: &Tensor<2>, block: &Block) -> Result<(), ScoreError> {
        let (dtype, least) = (x.dtype(), least_square(x.dtype()));
        let squares: f64 = squared_norms(x.clone())?.iter().sum();
        let d = block.parameters() as f64;
        let mean = (squares / (x.dims()[0] as f64 * d)).sqrt() * (self.squares / (self.samples as f64 * d)).sqrt();
        if !self.none && mean > 0.0 && mean < least {
            let block = block.name.clone();
            return Err(CurvatureError::TooSmall { block, dtype, mean_square: mean, least }.into());
        }
        Ok(())
    }
}
