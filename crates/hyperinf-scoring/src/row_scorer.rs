use burn::tensor::DType;
use hyperinf_gradients::Gradients;
use hyperinf_linalg::precise_type;

use crate::part::{Divisors, Part, add};
use crate::passes::queries;
use crate::precondition::invert;
use crate::second_pass::{Waiting, score};
use crate::{BlockScores, CurvatureFrom, Normalisation, Options, ScoreError, Scores, Source};

/// Scores the training samples of one block batch by batch, for ranks that share a block: every rank prepares the same
/// queries by the same inverse, and scores the batches of its own, which [`BlockScores::append`] puts together.
pub struct RowScorer {
    options: Options,
    queries: Gradients,
    query_squares: Vec<f64>,
    waiting: Vec<Waiting>,
}

impl RowScorer {
    /// Prepares the queries of one block, or of all merged. `train` are the samples of the curvature, if it is
    /// [`CurvatureFrom::Training`]. `None` where the samples cannot be scored apart: their curvature holds them, or the
    /// device has no f64 for inner products.
    ///
    /// # Errors
    ///
    /// As [`attribute`](crate::attribute).
    pub fn new(
        train: &dyn Source,
        query: &dyn Source,
        curvature: CurvatureFrom<'_>,
        options: &Options,
    ) -> Result<Option<Self>, ScoreError> {
        options.damping.validate()?;
        let queries = queries(query, options)?;
        let (mut waiting, mut query_squares) = (Vec::new(), Vec::new());
        let all = invert(train, curvature, Some(&queries), options, options.damping)?;
        for (index, (inverted, v)) in all.zip(&queries.blocks).enumerate() {
            let mut inverted = inverted?;
            let single = inverted.is_identity() && precise_type(&v.device(), v.dtype()) != DType::F64;
            if single || inverted.rows.is_some() {
                return Ok(None);
            }
            let (found, _) = inverted.queries(v.clone().flatten(1, 2))?;
            if options.normalisation == Normalisation::Cosine {
                add(&mut query_squares, found.squared_norms()?);
            }
            inverted.release(options.normalisation);
            let (x, powers, inverses) = (found.x, found.powers, vec![inverted]);
            let (scores, magnitudes) = Default::default();
            waiting.push(Waiting { index, x, powers, inverses, scores, magnitudes, underflow: None });
        }
        Ok(Some(Self { options: options.clone(), queries, query_squares, waiting }))
    }

    /// The scores of a batch of training samples.
    ///
    /// # Errors
    ///
    /// As [`attribute`](crate::attribute); samples are counted from the first one of the batch.
    pub fn score(&mut self, batch: &dyn Source) -> Result<BlockScores, ScoreError> {
        let Self { options, queries, query_squares, waiting } = self;
        for block in &mut *waiting {
            block.scores = Scores { rows: vec![Vec::new(); queries.samples()] };
            block.magnitudes = vec![0.0];
        }
        let (scores, divisors) = score(batch, queries, waiting, options)?;
        let mut part = Part::of_scores(scores);
        for Waiting { index, inverses, scores, magnitudes, .. } in waiting {
            let block = &queries.layout[*index];
            part.blocks.extend(inverses.iter().filter_map(|inverted| inverted.report.clone()));
            part.block_scores.extend(options.block_scores.then(|| (block.clone(), std::mem::take(scores))));
            part.magnitudes.extend(magnitudes.iter().map(|&magnitude| (block.clone(), magnitude)));
        }
        part.divisors = Divisors { query: query_squares.clone(), train: divisors.into_iter().flatten().collect() };
        Ok(BlockScores(part))
    }
}
