use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::Block;
use hyperinf_solvers::Plan;

use crate::part::Part;
use crate::precondition::Curved;
use crate::{Options, ScoreError, Set, Source};

/// Scores of training samples for queries; positive = helpful.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// One row of `n` scores per query.
    pub rows: Vec<Vec<f64>>,
}

impl Scores {
    /// `q`, the number of queries.
    pub fn queries(&self) -> usize {
        self.rows.len()
    }

    /// `n`, the number of training samples.
    pub fn samples(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    /// Adds scores of the same samples for the same queries.
    pub(crate) fn add(&mut self, other: &Self) {
        for (row, more) in self.rows.iter_mut().zip(&other.rows) {
            for (value, more) in row.iter_mut().zip(more) {
                *value += more;
            }
        }
    }

    /// [`Scores::add`], checked.
    pub(crate) fn add_same(&mut self, other: &Self) -> Result<(), ScoreError> {
        let counts = [(Set::Query, other.queries(), self.queries()), (Set::Train, other.samples(), self.samples())];
        if let Some((set, found, expected)) = counts.into_iter().find(|(_, found, expected)| found != expected) {
            return Err(ScoreError::SampleCount { set, found, expected });
        }
        self.add(other);
        Ok(())
    }

    /// Multiplies every score.
    pub(crate) fn scale(&mut self, factor: f64) {
        self.rows.iter_mut().flatten().for_each(|score| *score *= factor);
    }

    /// Appends scores of further samples for the same queries.
    pub(crate) fn extend(&mut self, other: &Self) {
        for (row, more) in self.rows.iter_mut().zip(&other.rows) {
            row.extend(more);
        }
    }

    /// Fails if a score is NaN or infinite.
    pub(crate) fn check(&self) -> Result<(), ScoreError> {
        match self.first_not_finite() {
            Some((query, sample, value)) => Err(ScoreError::Overflow { query, sample, value }),
            None => Ok(()),
        }
    }

    /// Query, sample and value of the first score that is NaN or infinite.
    pub(crate) fn first_not_finite(&self) -> Option<(usize, usize, f64)> {
        self.rows
            .iter()
            .enumerate()
            .find_map(|(query, row)| row.iter().position(|s| !s.is_finite()).map(|sample| (query, sample, row[sample])))
    }
}

/// How the inversion of one block went.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockReport {
    /// The block.
    pub block: Block,
    /// `λ`; `None` if every training gradient of the block is zero, so that it contributes nothing to any score.
    pub lambda: Option<f64>,
    /// `mean(diag F)`, in units of squared gradients.
    pub mean_square: f64,
    /// How the block was inverted, and why; displays as nothing if the solver's name says it all.
    pub plan: Plan,
    /// Steps of the solver.
    pub iterations: usize,
    /// The relative residual of the preconditioned queries.
    pub residual: f64,
    /// The residual that the solver aims for, if it aims for one.
    pub tolerance: Option<f64>,
}

impl BlockReport {
    /// Whether the residual is within the tolerance, where there is one.
    pub fn converged(&self) -> bool {
        self.tolerance.is_none_or(|tolerance| self.residual <= tolerance)
    }
}

/// The result of an attribution.
#[derive(Clone, Debug, Default)]
pub struct Attribution {
    /// The scores, summed over blocks; positive = helpful.
    pub scores: Scores,
    /// One report per block that was inverted; empty for methods without curvature.
    pub blocks: Vec<BlockReport>,
    /// Each block's part of the scores, if it was asked for: over the same divisors, so that they sum to the scores.
    pub block_scores: Vec<(Block, Scores)>,
}

impl Attribution {
    /// The largest relative residual over the blocks; `None` for methods without curvature.
    pub fn residual(&self) -> Option<f64> {
        self.blocks.iter().map(|b| b.residual).reduce(f64::max)
    }
}

/// Scores some blocks at a time: what a file of gradients larger than memory needs.
///
/// Every call brings *all* samples of the blocks it has. With [`Options::merged`] all blocks must come in one call,
/// since the merged matrix spans them.
pub struct Scorer {
    options: Options,
    total: Option<Part>,
}

impl Scorer {
    /// A scorer that has seen nothing.
    ///
    /// # Errors
    ///
    /// If the damping is not positive and finite.
    pub fn new(options: Options) -> Result<Self, ScoreError> {
        options.damping.validate()?;
        Ok(Self { options, total: None })
    }

    /// Adds the score of some blocks.
    ///
    /// # Errors
    ///
    /// If a set is empty, a gradient is not finite, the two sets' blocks differ, the samples are not as many as
    /// before, or a block cannot be inverted.
    pub fn add(&mut self, train: &dyn Source, query: &dyn Source) -> Result<(), ScoreError> {
        self.add_part(Part::of(train, Curved::Training, query, &self.options)?)
    }

    /// [`Scorer::add`] with the curvature of other samples, as [`attribute_with`](crate::attribute_with).
    ///
    /// # Errors
    ///
    /// As [`Scorer::add`].
    pub fn add_with(
        &mut self,
        train: &dyn Source,
        curvature: &dyn Source,
        query: &dyn Source,
    ) -> Result<(), ScoreError> {
        self.add_part(Part::of(train, Curved::Of(curvature), query, &self.options)?)
    }

    /// [`Scorer::add`] with a curvature that is made already, by [`curvature`](crate::curvature), of the same blocks.
    ///
    /// # Errors
    ///
    /// As [`Scorer::add`].
    pub fn add_known(
        &mut self,
        train: &dyn Source,
        curvature: Vec<BlockCurvature>,
        query: &dyn Source,
    ) -> Result<(), ScoreError> {
        self.add_part(Part::of(train, Curved::Known(curvature), query, &self.options)?)
    }

    fn add_part(&mut self, part: Part) -> Result<(), ScoreError> {
        let Some(total) = &mut self.total else {
            self.total = Some(part);
            return Ok(());
        };
        total.merge(part)
    }

    /// The scores over all blocks added.
    ///
    /// # Errors
    ///
    /// If there were none, or a score's divisor is not a finite positive number or 0.
    pub fn finish(self) -> Result<Attribution, ScoreError> {
        let mut total = self.total.ok_or(ScoreError::Empty { set: Set::Train, what: "blocks" })?;
        total.normalise()?;
        Ok(Attribution { scores: total.scores, blocks: total.blocks, block_scores: total.block_scores })
    }
}
