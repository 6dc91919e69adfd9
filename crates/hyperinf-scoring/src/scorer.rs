use hyperinf_curvature::Damping;
use hyperinf_gradients::Block;

use crate::part::Part;
use crate::{ArrivingScores, Attribution, BlockScores, CurvatureFrom, Method, Options, ScoreError, Set, Source};

/// Scores some blocks at a time, for files of gradients larger than memory.
///
/// Every call of [`Scorer::add`] brings *all* samples of its blocks. With [`Options::merged`] all blocks must come in
/// one call, since the merged matrix spans them.
pub struct Scorer(Sweep);

impl Scorer {
    /// A scorer without blocks.
    ///
    /// # Errors
    ///
    /// If the damping is not positive and finite.
    pub fn new(options: Options) -> Result<Self, ScoreError> {
        let damping = options.damping;
        Sweep::new(options, vec![damping]).map(Self)
    }

    /// Adds the scores of some blocks.
    ///
    /// # Errors
    ///
    /// If a set is empty, a gradient is not finite, the blocks of two sets differ, the number of samples or queries
    /// differs from that of the blocks before, or a block cannot be inverted.
    pub fn add(
        &mut self,
        train: &dyn Source,
        query: &dyn Source,
        curvature: CurvatureFrom<'_>,
    ) -> Result<(), ScoreError> {
        self.0.add(train, query, curvature)
    }

    /// Adds the scores of the next block, found apart from the others.
    ///
    /// # Errors
    ///
    /// If the number of samples or queries differs from that of the blocks before.
    pub fn merge(&mut self, block: BlockScores) -> Result<(), ScoreError> {
        match self.0.parts.first_mut() {
            Some(total) => total.merge(block.0),
            None => {
                self.0.parts.push(block.0);
                Ok(())
            }
        }
    }

    /// Begins with the scores of the next block, which come from another process or thread: `head` is
    /// [`BlockScores::head`], `block` the block.
    ///
    /// # Errors
    ///
    /// A text that says why it cannot be read, or does not fit the blocks before.
    pub fn begin(&mut self, head: &[u8], block: &Block) -> Result<ArrivingScores, String> {
        let mut total = self.0.parts.pop();
        let arriving = ArrivingScores::new(head, block, &mut total);
        self.0.parts.extend(total);
        arriving
    }

    /// Adds the next of [`BlockScores::pieces`]; `true` if it was the block's last one.
    ///
    /// # Errors
    ///
    /// A text that says why it cannot be read; the sum is of no use then.
    pub fn take(&mut self, arriving: &mut ArrivingScores, piece: &[u8]) -> Result<bool, String> {
        let total = self.0.parts.first_mut().ok_or("no block has begun")?;
        arriving.take(piece, total)
    }

    /// The scores of the blocks added, as they can be added to another scorer's; `None` if there were none.
    #[must_use]
    pub fn into_block(mut self) -> Option<BlockScores> {
        self.0.parts.pop().map(BlockScores)
    }

    /// The scores over all blocks added.
    ///
    /// # Errors
    ///
    /// If there were none, or a score's divisor is not a finite positive number or 0.
    pub fn finish(self) -> Result<Attribution, ScoreError> {
        self.0.finish()?.pop().ok_or(ScoreError::Empty { set: Set::Train, what: "blocks" })
    }
}

/// A [`Scorer`] at many dampings, as [`sweep`](crate::sweep) is an [`attribute`](crate::attribute) at many.
pub struct Sweep {
    options: Options,
    dampings: Vec<Damping>,
    /// One per damping that matters to the method; empty before the first blocks.
    parts: Vec<Part>,
}

impl Sweep {
    /// A sweep without blocks; `options.damping` is not used.
    ///
    /// # Errors
    ///
    /// If a damping is not positive and finite.
    pub fn new(options: Options, dampings: Vec<Damping>) -> Result<Self, ScoreError> {
        for damping in &dampings {
            damping.validate()?;
        }
        Ok(Self { options, dampings, parts: Vec::new() })
    }

    /// Adds the scores of some blocks at every damping.
    ///
    /// # Errors
    ///
    /// As [`Scorer::add`].
    pub fn add(
        &mut self,
        train: &dyn Source,
        query: &dyn Source,
        curvature: CurvatureFrom<'_>,
    ) -> Result<(), ScoreError> {
        let dampings = match self.options.method {
            // No damping changes these scores.
            Method::Identity => &self.dampings[..self.dampings.len().min(1)],
            Method::Inverse { .. } => &self.dampings,
        };
        if dampings.is_empty() {
            return Ok(());
        }
        let parts = Part::at_each(dampings, train, curvature, query, &self.options)?;
        if self.parts.is_empty() {
            self.parts = parts;
            return Ok(());
        }
        self.parts.iter_mut().zip(parts).try_for_each(|(total, part)| total.merge(part))
    }

    /// The scores over all blocks added, in the order of the dampings.
    ///
    /// # Errors
    ///
    /// As [`Scorer::finish`].
    pub fn finish(self) -> Result<Vec<Attribution>, ScoreError> {
        if self.parts.is_empty() && !self.dampings.is_empty() {
            return Err(ScoreError::Empty { set: Set::Train, what: "blocks" });
        }
        let found: Vec<Attribution> = self.parts.into_iter().map(Part::normalised).collect::<Result<_, _>>()?;
        match (found.as_slice(), self.dampings.len()) {
            ([same], copies) if copies > 1 => Ok(vec![same.clone(); copies]),
            _ => Ok(found),
        }
    }
}
