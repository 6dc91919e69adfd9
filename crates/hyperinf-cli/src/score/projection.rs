//! Gradients made small before they are scored.

use burn::tensor::{DType, Device, Tensor, s};
use hyperinf::gradients::{Block, Entries, GradientError, Gradients, Projection};
use hyperinf::scoring::ScoreError;
use serde::Serialize;

use super::pair::Pair;
use super::stream::principal;
use crate::args::{DirectionsArg, ProjectArgs};
use crate::error::CliError;
use crate::gradient_file::Precision;

/// What was typed of a projection, checked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Projecting {
    /// Longer sides of blocks have this length afterwards.
    pub(crate) rank: usize,
    pub(crate) directions: &'static str,
    /// `null` where nothing is drawn.
    pub(crate) seed: Option<u64>,
}

impl Projecting {
    /// # Errors
    ///
    /// If a seed is given and nothing is drawn.
    pub(super) fn new(args: &ProjectArgs) -> Result<Option<Self>, CliError> {
        let Some(rank) = args.project else { return Ok(None) };
        let (directions, seed) = match (args.project_on.unwrap_or_default(), args.project_seed) {
            (DirectionsArg::Random, seed) => ("random", Some(seed.unwrap_or(0))),
            (DirectionsArg::Principal, None) => ("principal", None),
            (DirectionsArg::Principal, Some(_)) => {
                let (first, second) = ("--project-on principal".into(), "--project-seed");
                return Err(CliError::Combination { first, second, reason: "nothing is drawn for it" });
            }
        };
        Ok(Some(Self { rank: rank as usize, directions, seed }))
    }
}

impl Projecting {
    /// The flags that mean it.
    pub(crate) fn flags(self) -> String {
        let seed = self.seed.filter(|seed| *seed != 0).map(|seed| format!("--project-seed {seed} "));
        let on = if self.seed.is_none() { "--project-on principal " } else { "" };
        format!("--project {} {on}{}", self.rank, seed.unwrap_or_default())
    }

    /// So many more, with seeds that count on; none where nothing is drawn.
    pub(crate) fn further(self, count: usize) -> Vec<Self> {
        let of = |first: u64| (1..=count as u64).map(move |more| Self { seed: Some(first.wrapping_add(more)), ..self });
        self.seed.into_iter().flat_map(of).collect()
    }
}

impl Pair {
    /// Has the gradients of all files projected from now on, or none.
    pub(crate) fn project(&mut self, how: Option<Projecting>, device: &Device) -> Result<(), CliError> {
        self.projection = None;
        let Some(Projecting { rank, seed, .. }) = how else { return Ok(()) };
        let layout: Vec<Block> = self.train.blocks().iter().map(|stored| stored.block.clone()).collect();
        let dtype = if self.precision(device) == Precision::Double { DType::F64 } else { DType::F32 };
        let projection = match seed {
            Some(seed) => Projection::random(layout, rank, Entries::Gaussian, seed, (device, dtype)),
            None => Projection::new(layout, principal(self, rank, device)?),
        };
        self.projection = Some(projection.map_err(|e| CliError::Score(ScoreError::Projection(e)))?);
        Ok(())
    }

    /// Whether a projection of this rank would leave every block as it is.
    pub(crate) fn is_within(&self, how: &Projecting) -> bool {
        self.train.blocks().iter().all(|stored| stored.block.rows.max(stored.block.cols) <= how.rank)
    }

    /// What is to be told of a projection that does nothing.
    pub(crate) fn note(&self, how: Option<Projecting>) -> Option<String> {
        let how = how.filter(|how| self.is_within(how))?;
        Some(format!("--project {} has no effect: no side of any block is longer", how.rank))
    }

    /// The blocks that are scored: the training file's, or what is left of them.
    pub(crate) fn scored_blocks(&self) -> Vec<Block> {
        match &self.projection {
            Some(projection) => projection.projected().to_vec(),
            None => self.train.blocks().iter().map(|stored| stored.block.clone()).collect(),
        }
    }
}

/// The projection of some of the blocks.
pub(super) fn of(all: &Projection, blocks: &[usize]) -> Result<Projection, GradientError> {
    let layout: Vec<Block> = blocks.iter().map(|&block| all.layout()[block].clone()).collect();
    Projection::new(layout, blocks.iter().map(|&block| all.sides()[block].clone()).collect())
}

/// The gradients of blocks side by side, `[n, 1, D]`, or of one, `[n, rows, cols]`, projected: `merged` side by side again, or
/// the one.
pub(super) fn apply(projection: &Projection, whole: Tensor<3>, merged: bool) -> Result<Tensor<3>, GradientError> {
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
