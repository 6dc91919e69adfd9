use burn::tensor::{Tensor, s};
use hyperinf_gradients::{Block, Capture, same_layout};
use hyperinf_linalg::scalars;

use crate::block_rows::BatchRows;
use crate::part::{add, divided, roots};
use crate::passes::queries;
use crate::precondition::{BlockInverse, invert};
use crate::{BlockReport, CurvatureFrom, Normalisation, Options, ScoreError, Set, Source};

/// Scores of the positions (tokens) of training samples; positive = helpful.
///
/// A sample's score is the sum over its positions and [`PositionScores::whole`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct PositionScores {
    /// For each query and each training sample the score of each position of its batch, padding included: `Σ_l a_t X_l
    /// δ_t`. Positions that do not reach the loss, as padding does not, have the score 0.
    pub rows: Vec<Vec<Vec<f64>>>,
    /// For each query and each training sample the score of layers that see the sample as a whole, as a head behind
    /// pooling does; 0 without such layers.
    pub whole: Vec<Vec<f64>>,
    /// One report per block that was inverted.
    pub blocks: Vec<BlockReport>,
}

/// Scores the positions of every training sample for every query: `score_t = Σ_l a_t X_l δ_t` with `X_l = v_l (H_l +
/// λ_l I)⁻¹` as a matrix `[rows, cols]`, since a sample's gradient is the sum `g = Σ_t a_t ⊗ δ_t`.
///
/// Layers with one position count as a whole. All others must see the same positions, since the `2t` positions of a
/// layer that is used twice, or of an image at two sizes, cannot be matched. A position's score is its part of the
/// gradient; attention has already mixed the tokens, so it is not a score of the token alone. Costs, per query, one
/// product of each layer's inputs with a matrix of its weights' size.
///
/// # Errors
///
/// [`ScoreError::NoCaptures`] if `train` gives gradients, [`ScoreError::Positions`] if layers of one batch have
/// different numbers of positions, and as [`attribute`](crate::attribute).
pub fn position_scores(
    train: &dyn Source,
    query: &dyn Source,
    curvature: CurvatureFrom<'_>,
    options: &Options,
) -> Result<PositionScores, ScoreError> {
    let mut scorer = PositionScorer::new(options.clone())?;
    scorer.add(train, query, curvature)?;
    scorer.finish(train)
}

/// [`position_scores`] of some training samples, by curvature and queries that come some blocks at a time.
///
/// Every call of [`PositionScorer::add`] brings all queries of its blocks, in the order of the layers. With
/// [`Options::merged`] all blocks must come in one call.
pub struct PositionScorer {
    pub(crate) options: Options,
    pub(crate) inverses: Vec<BlockInverse>,
    /// The preconditioned queries of each block.
    pub(crate) x: Vec<Tensor<2>>,
    pub(crate) query_squares: Vec<f64>,
    /// The blocks of the queries, which are one if they are merged.
    pub(crate) layout: Vec<Block>,
    pub(crate) queries: usize,
}

impl PositionScorer {
    /// A scorer without blocks.
    ///
    /// # Errors
    ///
    /// If the damping is not positive and finite.
    pub fn new(options: Options) -> Result<Self, ScoreError> {
        options.damping.validate()?;
        let (inverses, x, query_squares, layout) = Default::default();
        Ok(Self { options, inverses, x, query_squares, layout, queries: 0 })
    }

    /// Adds some blocks; `train` are the samples of the curvature, if it is [`CurvatureFrom::Training`].
    ///
    /// # Errors
    ///
    /// As [`Scorer::add`](crate::Scorer::add).
    pub fn add(
        &mut self,
        train: &dyn Source,
        query: &dyn Source,
        curvature: CurvatureFrom<'_>,
    ) -> Result<(), ScoreError> {
        let options = &self.options;
        let queries = queries(query, options)?;
        let (found, expected) = (queries.samples(), self.queries);
        if expected != 0 && found != expected {
            return Err(ScoreError::SampleCount { set: Set::Query, found, expected });
        }
        let inverted = invert(train, curvature, Some(&queries), options, options.damping)?;
        for (inverted, v) in inverted.zip(&queries.blocks) {
            let mut inverted = inverted?;
            let (found, _) = inverted.queries(v.clone().flatten(1, 2))?;
            if options.normalisation == Normalisation::Cosine {
                add(&mut self.query_squares, found.squared_norms()?);
            }
            inverted.release(options.normalisation);
            inverted.rows = None;
            self.inverses.push(inverted);
            self.x.push(found.restored());
        }
        self.layout.extend_from_slice(&queries.layout);
        self.queries = found;
        Ok(())
    }

    /// The scores of the positions of training samples.
    ///
    /// # Errors
    ///
    /// As [`position_scores`].
    pub fn finish(self, train: &dyn Source) -> Result<PositionScores, ScoreError> {
        let Self { options, mut inverses, mut x, query_squares, layout: of_queries, queries: q } = self;
        let mut result = PositionScores { rows: vec![Vec::new(); q], whole: vec![Vec::new(); q], blocks: Vec::new() };
        let mut squares = Vec::new();
        let mut layout = (!options.merged).then(|| of_queries.clone());
        train.pass(&mut |found| {
            // In f64, as the preconditioned queries are; not for plain inner products.
            let dtype = x.first().map(Tensor::dtype);
            let typed = |c: Capture| match dtype {
                Some(dtype) => Capture { input: c.input.cast(dtype), delta: c.delta.cast(dtype), ..c },
                None => c,
            };
            let captures: Vec<Capture> = found.into_captures()?.into_iter().map(typed).collect();
            let blocks: Vec<Block> = captures.iter().map(|c| c.block.clone()).collect();
            let layout = match &mut layout {
                Some(layout) => layout,
                none => {
                    x = cut(&x, &blocks, &of_queries)?;
                    none.insert(blocks.clone())
                }
            };
            same_layout(layout, &blocks).map_err(ScoreError::gradients(Set::Train))?;
            let positions = positions(&captures)?;
            for query in 0..q {
                let (rows, whole) = batch(&captures, &x, query, positions)?;
                for (i, row) in rows.iter().enumerate() {
                    if let Some(value) = row.iter().chain([&whole[i]]).find(|value| !value.is_finite()) {
                        let sample = result.whole[query].len() + i;
                        return Err(ScoreError::Overflow { query, sample, value: *value });
                    }
                }
                result.rows[query].extend(rows);
                result.whole[query].extend(whole);
            }
            squares.extend(divisors(&captures, &mut inverses, &options)?);
            Ok(())
        })?;
        if result.whole.iter().all(Vec::is_empty) {
            return Err(ScoreError::Empty { set: Set::Train, what: "samples" });
        }

        let (query_roots, train_roots) = (roots(&query_squares, Set::Query)?, roots(&squares, Set::Train)?);
        for (query, (rows, whole)) in result.rows.iter_mut().zip(&mut result.whole).enumerate() {
            for (i, (row, whole)) in rows.iter_mut().zip(whole).enumerate() {
                for value in row.iter_mut().chain([whole]) {
                    *value = divided(*value, query_roots.get(query), train_roots.get(i));
                }
            }
        }
        result.blocks = inverses.into_iter().filter_map(|inverted| inverted.report).collect();
        Ok(result)
    }
}

/// The queries of merged blocks, block by block.
fn cut(merged: &[Tensor<2>], layout: &[Block], queries: &[Block]) -> Result<Vec<Tensor<2>>, ScoreError> {
    let all = Block::new("merged", 1, layout.iter().map(Block::parameters).sum());
    same_layout(queries, &[all]).map_err(ScoreError::gradients(Set::Train))?;
    let mut start = 0;
    let part = |block: &Block| {
        let end = start + block.parameters();
        let part = merged[0].clone().slice(s![.., start..end]);
        start = end;
        part
    };
    Ok(layout.iter().map(part).collect())
}

/// The number of positions of a batch: of the layers that see more than one.
fn positions(captures: &[Capture]) -> Result<usize, ScoreError> {
    let mut counts = captures.iter().map(|c| (c, c.input.dims()[1])).filter(|(_, t)| *t > 1);
    let expected = counts.next().map_or(1, |(_, t)| t);
    match counts.find(|(_, t)| *t != expected) {
        None => Ok(expected),
        Some((capture, found)) => Err(ScoreError::Positions { block: capture.block.name.clone(), found, expected }),
    }
}

/// The scores of a batch's positions, `[n][t]`, and of its samples as a whole, `[n]`.
fn batch(
    captures: &[Capture],
    x: &[Tensor<2>],
    query: usize,
    positions: usize,
) -> Result<(Vec<Vec<f64>>, Vec<f64>), ScoreError> {
    let n = captures.first().map_or(0, |c| c.input.dims()[0]);
    let mut rows = vec![vec![0.0; positions]; n];
    let mut whole = vec![0.0; n];
    for (Capture { block, input, delta }, x) in captures.iter().zip(x) {
        let ([_, t, _], Block { rows: inputs, cols, .. }) = (input.dims(), block);
        let x = x.clone().slice([query..query + 1]).reshape([*inputs, *cols]);
        let product = input.clone().reshape([n * t, *inputs]).matmul(x);
        let found = scalars(product, delta.clone().reshape([n * t, *cols]))?;
        for (i, sample) in found.chunks(t).enumerate() {
            if t == 1 && positions > 1 {
                whole[i] += sample[0];
            } else {
                rows[i].iter_mut().zip(sample).for_each(|(sum, value)| *sum += value);
            }
        }
    }
    Ok((rows, whole))
}

/// The squares of each sample's divisors; without normalisation the list is empty, and blocks are only checked.
fn divisors(captures: &[Capture], inverses: &mut [BlockInverse], options: &Options) -> Result<Vec<f64>, ScoreError> {
    let mut sums = Vec::new();
    if options.normalisation == Normalisation::None && !inverses.iter().any(BlockInverse::is_zero) {
        return Ok(sums);
    }
    let Some(batch) = BatchRows::new(captures.to_vec().into(), options.merged, Set::Train)? else { return Ok(sums) };
    for (inverted, rows) in inverses.iter_mut().zip(&batch.blocks) {
        inverted.check(rows)?;
        add(&mut sums, inverted.squares(rows, options.normalisation)?);
    }
    Ok(sums)
}
