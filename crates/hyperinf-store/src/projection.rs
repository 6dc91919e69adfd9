use burn::tensor::{DType, Device, Tensor, s};
use hyperinf_gradients::{Block, Entries, GradientError, Gradients, Projection};
use hyperinf_scoring::ScoreError;
use serde::{Serialize, Serializer};

use crate::stream::principal;
use crate::{GradientPair, Precision, StoreError};

/// A projection of every block's gradients before scoring (LoGra, TRAK).
///
/// | field | default | purpose |
/// |---|---|---|
/// | `rank` | 64 | the length of a block's sides after the projection; shorter sides stay as they are |
/// | `directions` | random, seed 0 | directions that the sides are projected on |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectionSpec {
    /// The length of a block's sides after the projection; shorter sides stay as they are.
    pub rank: usize,
    /// What the sides are projected on.
    pub directions: Directions,
}

/// The directions of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directions {
    /// Gaussian matrices.
    Random {
        /// Their seed.
        seed: u64,
    },
    /// The leading principal directions of the training gradients, from one more pass over them.
    Principal,
}

impl Default for ProjectionSpec {
    fn default() -> Self {
        Self { rank: 64, directions: Directions::Random { seed: 0 } }
    }
}

impl Directions {
    /// `random` or `principal`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random { .. } => "random",
            Self::Principal => "principal",
        }
    }

    /// The seed, if anything is drawn.
    pub fn seed(self) -> Option<u64> {
        match self {
            Self::Random { seed } => Some(seed),
            Self::Principal => None,
        }
    }
}

impl Serialize for ProjectionSpec {
    /// As `{"rank", "directions", "seed"}`, the seed `null` where nothing is drawn.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields {
            rank: usize,
            directions: &'static str,
            seed: Option<u64>,
        }
        let (directions, seed) = (self.directions.name(), self.directions.seed());
        Fields { rank: self.rank, directions, seed }.serialize(serializer)
    }
}

impl ProjectionSpec {
    /// The next `count` projections, with consecutive seeds; none if nothing is drawn.
    #[must_use]
    pub fn further(self, count: usize) -> Vec<Self> {
        let Directions::Random { seed } = self.directions else { return Vec::new() };
        let next = |more| Self { directions: Directions::Random { seed: seed.wrapping_add(more) }, ..self };
        (1..=count as u64).map(next).collect()
    }
}

impl GradientPair {
    /// Projects the gradients of all files from now on, or none of them.
    ///
    /// # Errors
    ///
    /// If the rank is 0, or the training gradients cannot be read for their principal directions.
    pub fn project(&mut self, spec: Option<ProjectionSpec>, device: &Device) -> Result<(), StoreError> {
        (self.projection, self.own) = (None, None);
        let Some(ProjectionSpec { rank, directions }) = spec else { return Ok(()) };
        let layout = self.stored_blocks();
        let dtype = if self.precision(device) == Precision::Double { DType::F64 } else { DType::F32 };
        let projection = match directions {
            Directions::Random { seed } => Projection::random(layout, rank, Entries::Gaussian, seed, (device, dtype)),
            Directions::Principal => Projection::new(layout, principal(self, rank, device)?),
        };
        self.projection = Some(projection.map_err(|e| StoreError::Score(ScoreError::Projection(e)))?);
        Ok(())
    }

    /// Whether a projection of this rank would leave every block as it is.
    pub fn is_within(&self, rank: usize) -> bool {
        self.train.blocks().iter().all(|stored| stored.block.rows.max(stored.block.cols) <= rank)
    }
}

/// The projection of some of the blocks.
pub(crate) fn of(all: &Projection, blocks: &[usize]) -> Result<Projection, GradientError> {
    let layout: Vec<Block> = blocks.iter().map(|&block| all.layout()[block].clone()).collect();
    Projection::new(layout, blocks.iter().map(|&block| all.sides()[block].clone()).collect())
}

/// Projects blocks that lie side by side, `[n, 1, D]`, or one block, `[n, rows, cols]`; `merged` blocks are put side
/// by side again.
pub(crate) fn apply(projection: &Projection, whole: Tensor<3>, merged: bool) -> Result<Tensor<3>, GradientError> {
    let n = whole.dims()[0];
    let flat: Tensor<2> = whole.flatten(1, 2);
    let mut column = 0;
    let blocks = projection.layout().iter().map(|block| {
        let columns = column..column + block.parameters();
        column = columns.end;
        flat.clone().slice(s![.., columns]).reshape([n, block.rows, block.cols])
    });
    let gradients = Gradients { layout: projection.layout().clone(), blocks: blocks.collect() };
    let mut small = projection.gradients(&gradients)?.blocks;
    if !merged {
        return Ok(small.remove(0));
    }
    let width = projection.projected().iter().map(Block::parameters).sum::<usize>();
    let rows: Vec<Tensor<2>> = small.into_iter().map(|block| block.flatten(1, 2)).collect();
    Ok(Tensor::cat(rows, 1).reshape([n, 1, width]))
}
