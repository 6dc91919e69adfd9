use burn::tensor::{DType, Tensor};
use hyperinf_curvature::Damping;
use hyperinf_gradients::Block;
use hyperinf_linalg::precise_type;

use crate::block_rows::BlockRows;
use crate::passes::queries;
use crate::precondition::{BlockInverse, Preconditioned, TOGETHER, invert_at_each};
use crate::second_pass::{Underflow, Waiting, score};
use crate::side_by_side::{self, AT_ONCE, is_small};
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
        let mut all = all.zip(&queries.blocks).enumerate();
        loop {
            let (next, failed) = together(&mut all);
            let last = next.is_empty();
            let (many, normalisation) = (next.len() > 1, options.normalisation);
            let asked = side_by_side::each(next, many, |(index, inverses, v)| {
                Ok((index, v, Asked::each(inverses, v, normalisation)?))
            })?;
            for (index, v, asked) in asked {
                let (mut inverses, mut later, mut powers) = (Vec::new(), Vec::new(), Vec::new());
                let without_f64 = precise_type(&v.device(), v.dtype()) != DType::F64;
                let identity = matches!(options.method, Method::Identity);
                let underflow = (without_f64 && identity).then(Underflow::default);
                for (part, asked) in parts.iter_mut().zip(asked) {
                    let Asked { mut inverse, query_squares, found } = asked;
                    add(&mut part.divisors.query, query_squares);
                    match found {
                        Found::Queries(found) => {
                            later.push(found.x);
                            powers.extend(found.powers);
                        }
                        Found::Scores { scores, squares } => {
                            add(&mut part.divisors.train, squares);
                            let (report, kept) = (inverse.report.take(), options.block_scores.then(|| scores.clone()));
                            part.blocks.push(OfBlock { index, report, magnitude: scores.magnitude(), scores: kept });
                            part.scores.sum(scores)?;
                        }
                    }
                    inverses.push(inverse);
                }
                if !later.is_empty() {
                    let scores = Scores { rows: vec![Vec::new(); later.len() * queries.samples()] };
                    let magnitudes = vec![0.0; inverses.len()];
                    waiting.push(Waiting { index, x: joined(later), powers, inverses, scores, magnitudes, underflow });
                }
            }
            // After the blocks before it.
            failed.map_or(Ok(()), Err)?;
            if last {
                break;
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

/// A block's place, its inverses and its queries.
type Inverted<'a> = (usize, Vec<BlockInverse>, &'a Tensor<3>);

/// The next blocks whose queries are preconditioned at once, several small ones or one, and the error of the block after
/// them.
fn together<'a>(
    all: &mut impl Iterator<Item = (usize, (Result<Vec<BlockInverse>, ScoreError>, &'a Tensor<3>))>,
) -> (Vec<Inverted<'a>>, Option<ScoreError>) {
    let (mut found, mut bytes) = (Vec::new(), 0);
    while found.len() < AT_ONCE && bytes < TOGETHER {
        let Some((index, (inverses, v))) = all.next() else { break };
        let inverses = match inverses {
            Ok(inverses) => inverses,
            Err(error) => return (found, Some(error)),
        };
        let [q, rows, cols] = v.dims();
        let held = inverses.iter().filter_map(|inverse| Some(inverse.rows.as_ref()?.dims()[0])).max().unwrap_or(0);
        let small = is_small(&v.device(), (rows * cols * q.max(held)).max(q * held));
        bytes += inverses.iter().map(|inverse| inverse.bytes).sum::<usize>();
        found.push((index, inverses, v));
        if !small {
            break;
        }
    }
    (found, None)
}

/// The queries of a block after the inverse at one damping.
struct Asked {
    inverse: BlockInverse,
    /// The squares of the queries' divisors.
    query_squares: Vec<f64>,
    found: Found,
}

#[allow(clippy::large_enum_variant, reason = "there are a few per block, and its tensors are handles")]
enum Found {
    /// The preconditioned queries, for the second pass.
    Queries(Preconditioned),
    /// The scores of samples that the curvature holds, with the squares of their divisors.
    Scores { scores: Scores, squares: Vec<f64> },
}

impl Asked {
    fn each(inverses: Vec<BlockInverse>, v: &Tensor<3>, normalisation: Normalisation) -> Result<Vec<Self>, ScoreError> {
        inverses.into_iter().map(|inverse| Self::of(inverse, v, normalisation)).collect()
    }

    fn of(mut inverse: BlockInverse, v: &Tensor<3>, normalisation: Normalisation) -> Result<Self, ScoreError> {
        let (found, scores) = inverse.queries(v.clone().flatten(1, 2))?;
        let query_squares = match normalisation {
            Normalisation::Cosine => found.squared_norms()?,
            _ => Vec::new(),
        };
        let (Some(scores), Some(rows)) = (scores, inverse.rows.take()) else {
            inverse.release(normalisation);
            return Ok(Self { inverse, query_squares, found: Found::Queries(found) });
        };
        let rows = BlockRows::Held(rows);
        inverse.check(&rows)?;
        // The curvature has checked that the gradients are finite.
        scores.check()?;
        let squares = inverse.squares(&rows, normalisation)?;
        Ok(Self { inverse, query_squares, found: Found::Scores { scores, squares } })
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
