use hyperinf_gradients::Block;
use hyperinf_solvers::Plan;

use crate::scale::times;
use crate::{ScoreError, Set};

/// The smallest score of f64 with all its digits, and room for sums.
const LEAST: f64 = 1e-290;

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

    /// Adds the scores of further blocks or checkpoints; the first ones are taken as they are.
    pub(crate) fn sum(&mut self, more: Self) -> Result<(), ScoreError> {
        if self.queries() == 0 {
            *self = more;
            return Ok(());
        }
        let counts = [(Set::Query, more.queries(), self.queries()), (Set::Train, more.samples(), self.samples())];
        if let Some((set, found, expected)) = counts.into_iter().find(|(_, found, expected)| found != expected) {
            return Err(ScoreError::SampleCount { set, found, expected });
        }
        self.add(&more);
        Ok(())
    }

    /// Multiplies each row by a power of two; fails if that leaves the range of f64.
    pub(crate) fn times_powers(mut self, powers: &[i32]) -> Result<Self, ScoreError> {
        for (query, (row, &power)) in
            self.rows.iter_mut().zip(powers).enumerate().filter(|(_, (_, power))| **power != 0)
        {
            let largest = row.iter().fold(0.0_f64, |largest, score| largest.max(score.abs()));
            row.iter_mut().for_each(|score| *score = times(*score, power));
            if largest > 0.0 && times(largest, power) < LEAST {
                return Err(ScoreError::Underflow { query, largest, power });
            }
        }
        Ok(self)
    }

    /// Multiplies every score.
    pub(crate) fn scale(&mut self, factor: f64) {
        self.rows.iter_mut().flatten().for_each(|score| *score *= factor);
    }

    /// The sum of all absolute scores; of scores so large that it would overflow, the largest number.
    pub(crate) fn magnitude(&self) -> f64 {
        self.rows.iter().flatten().map(|score| score.abs()).sum::<f64>().min(f64::MAX)
    }

    /// Appends scores of further samples for the same queries.
    pub(crate) fn extend(&mut self, other: &Self) {
        for (row, more) in self.rows.iter_mut().zip(&other.rows) {
            row.extend(more);
        }
    }

    /// Cuts `[k · q, n]` into `k` scores of `q` queries.
    pub(crate) fn split(self, q: usize) -> impl Iterator<Item = Self> {
        let k = self.queries() / q.max(1);
        let mut rows = self.rows.into_iter();
        (0..k).map(move |_| Self { rows: rows.by_ref().take(q).collect() })
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

/// The inversion of one block: its plan, damping and residuals.
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
    /// The residual that an iterative solver aims for; `None` for the others.
    pub tolerance: Option<f64>,
    /// A bound on what rounding in the curvature's sum adds to the relative residual times the condition, `ε·κ` with
    /// `κ ≤ 1 + tr F/λ`: the error that no residual shows, relative to `||v|| ||g||/λ` of a score.
    pub rounding: f64,
}

impl BlockReport {
    /// Whether rounding in the curvature's sum changes scores by no more than a hundredth of their scale.
    pub fn is_precise(&self) -> bool {
        self.rounding <= 1e-2
    }

    /// Whether the residual is within the tolerance, where there is one.
    pub fn converged(&self) -> bool {
        self.tolerance.is_none_or(|tolerance| self.residual <= tolerance)
    }
}

/// The result of an attribution.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Attribution {
    /// The scores, summed over blocks; positive = helpful.
    pub scores: Scores,
    /// One report per block that was inverted; empty for methods without curvature.
    pub blocks: Vec<BlockReport>,
    /// Each block's part of the scores, with [`Options::block_scores`](crate::Options::block_scores): over the same
    /// divisors, so that they sum to the scores.
    pub block_scores: Vec<(Block, Scores)>,
    /// `Σ_q Σ_i |s_l[q, i]|` of each block, whose scores are `s_l` before any divisor; over checkpoints the sum of
    /// learning rate times that.
    pub magnitudes: Vec<(Block, f64)>,
}

impl Attribution {
    /// The largest relative residual over the blocks; `None` for methods without curvature.
    pub fn residual(&self) -> Option<f64> {
        self.blocks.iter().map(|b| b.residual).reduce(f64::max)
    }

    /// Whether every block reached its tolerance.
    pub fn converged(&self) -> bool {
        self.blocks.iter().all(BlockReport::converged)
    }

    /// Each block's share of the scores, `Σ |s_l| / Σ_k Σ |s_k|` over samples and queries, in [0, 1]: how much a block
    /// moves scores, whatever the signs. The shares sum to 1, or are all 0 if every score of every block is.
    pub fn shares(&self) -> Vec<(&Block, f64)> {
        let largest = self.magnitudes.iter().map(|(_, magnitude)| *magnitude).fold(0.0, f64::max);
        let relative = |magnitude: f64| if largest > 0.0 { magnitude / largest } else { 0.0 };
        let total: f64 = self.magnitudes.iter().map(|(_, magnitude)| relative(*magnitude)).sum();
        self.magnitudes.iter().map(|(block, magnitude)| (block, relative(*magnitude) / total.max(1.0))).collect()
    }

    /// The blocks that did not reach their tolerance, the largest residual first.
    pub fn not_converged(&self) -> Vec<&BlockReport> {
        let mut blocks: Vec<&BlockReport> = self.blocks.iter().filter(|block| !block.converged()).collect();
        blocks.sort_by(|a, b| b.residual.total_cmp(&a.residual));
        blocks
    }

    /// Replaces each report by that of another attribution of the same blocks where that one is worse: not converged,
    /// or of a larger residual.
    pub fn keep_worst(&mut self, others: Vec<BlockReport>) {
        let trust = |report: &BlockReport| (report.converged(), -report.residual);
        for (kept, other) in self.blocks.iter_mut().zip(others) {
            if trust(&other).partial_cmp(&trust(kept)).is_none_or(|order| order.is_lt()) {
                *kept = other;
            }
        }
    }
}
