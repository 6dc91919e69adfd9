//! Scores of blocks on their way to rank 0, which adds them in the order of the blocks.
//!
//! Each rank holds finished scores up to a limit, so that it can go on with its next block; beyond it rank 0 takes
//! the next blocks in order, and the others wait until it does. A block arrives in pieces that are added as they come.

use std::collections::VecDeque;

use hyperinf_gradients::Block;
use hyperinf_scoring::{Attribution, BlockScores, Options, Scorer, TeamError};

use crate::RunError;
use crate::crew::Crew;

/// Bytes of a piece.
const PIECE: usize = 16 << 20;

/// Finished scores of a rank's own blocks, in the order of the blocks.
struct Held {
    scores: VecDeque<BlockScores>,
    bytes: usize,
    most: usize,
}

impl Held {
    fn new(crew: &Crew) -> Self {
        Self { scores: VecDeque::new(), bytes: 0, most: crew.held() }
    }

    fn push(&mut self, scores: BlockScores) {
        self.bytes += scores.bytes();
        self.scores.push_back(scores);
    }

    fn pop(&mut self) -> Option<BlockScores> {
        let scores = self.scores.pop_front()?;
        self.bytes -= scores.bytes();
        Some(scores)
    }

    fn is_full(&self) -> bool {
        self.bytes > self.most
    }
}

/// The scores of this rank's blocks, to be sent to rank 0.
pub(crate) struct Outgoing<'a> {
    crew: &'a Crew,
    held: Held,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(crew: &'a Crew) -> Self {
        Self { crew, held: Held::new(crew) }
    }

    /// Takes the scores of the next block, and sends earlier ones if too many are held.
    pub(crate) fn keep(&mut self, scores: BlockScores) -> Result<(), RunError> {
        self.held.push(scores);
        while self.held.is_full() {
            self.send()?;
        }
        Ok(())
    }

    /// Sends what is left.
    pub(crate) fn finish(mut self) -> Result<(), RunError> {
        while !self.held.scores.is_empty() {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), RunError> {
        let Some(scores) = self.held.pop() else { return Ok(()) };
        self.crew.send(0, &scores.head())?;
        scores.pieces(PIECE).try_for_each(|piece| self.crew.send(0, &piece))
    }
}

/// The sum over all blocks, at rank 0.
pub(crate) struct Gather<'a> {
    crew: &'a Crew,
    blocks: &'a [Block],
    owners: &'a [usize],
    /// The next block to be added.
    next: usize,
    scorer: Scorer,
    held: Held,
}

impl<'a> Gather<'a> {
    pub(crate) fn new(
        crew: &'a Crew,
        options: &Options,
        blocks: &'a [Block],
        owners: &'a [usize],
    ) -> Result<Self, RunError> {
        Ok(Self { crew, blocks, owners, next: 0, scorer: Scorer::new(options.clone())?, held: Held::new(crew) })
    }

    /// Takes the scores of this rank's next block, and adds blocks in order if too many are held.
    pub(crate) fn keep(&mut self, scores: BlockScores) -> Result<(), RunError> {
        self.held.push(scores);
        while self.held.is_full() {
            self.add()?;
        }
        Ok(())
    }

    /// Adds what is left.
    pub(crate) fn finish(mut self) -> Result<Attribution, RunError> {
        while self.next < self.blocks.len() {
            self.add()?;
        }
        Ok(self.scorer.finish()?)
    }

    /// Adds the next block. An own one is held already: only then are others waited for.
    fn add(&mut self) -> Result<(), RunError> {
        let (block, rank) = (&self.blocks[self.next], self.owners[self.next]);
        self.next += 1;
        if rank == 0 {
            return match self.held.pop() {
                Some(scores) => Ok(self.scorer.merge(scores)?),
                None => {
                    Err(TeamError::Garbled { rank, reason: format!("block `{}` was not scored", block.name) }.into())
                }
            };
        }
        arrive(self.crew, rank, &mut self.scorer, block)
    }
}

/// Adds the scores of a block that another rank sends.
fn arrive(crew: &Crew, rank: usize, scorer: &mut Scorer, block: &Block) -> Result<(), RunError> {
    let garbled = |reason| RunError::Team(TeamError::Garbled { rank, reason });
    let head = crew.receive(rank, "the scores of a block")?;
    let mut arriving = scorer.begin(&head, block).map_err(garbled)?;
    loop {
        let piece = crew.receive(rank, "the scores of a block")?;
        if scorer.take(&mut arriving, &piece).map_err(garbled)? {
            return Ok(());
        }
    }
}

/// The scores of a block that another rank sends, by themselves.
pub(crate) fn arrived(crew: &Crew, rank: usize, options: &Options, block: &Block) -> Result<BlockScores, RunError> {
    let mut alone = Scorer::new(options.clone())?;
    arrive(crew, rank, &mut alone, block)?;
    let none = || TeamError::Garbled { rank, reason: "it has no scores".to_owned() }.into();
    alone.into_block().ok_or_else(none)
}
