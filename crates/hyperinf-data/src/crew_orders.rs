//! What rank 0 gives out.

use std::ops::Range;
use std::path::PathBuf;

use hyperinf_gradients::Estimate;
use hyperinf_store::RecordedBatches;
use serde::{Deserialize, Serialize};

/// What rank 0 gives out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// The hashes of recorded batches: each rank compares its own with the file.
    Check(RecordedBatches),
    /// The gradients of batches of a set, numbered from `first`: each rank takes its own.
    Gradients { set: usize, first: usize, batches: Vec<Vec<usize>> },
    /// What the model predicts for batches of a set, each rank its own.
    Predictions { set: usize, batches: Vec<Vec<usize>> },
    /// Something of each block, by its owner.
    Blocks(BlockWork),
    /// The sums over batches of merged blocks, each rank its own, and then their scores; the curvature follows.
    Rows(RowWork),
    /// The scores of the tokens of some rows, batch by batch; the preconditioned queries follow.
    Tokens { of: Method, rows: Vec<usize>, blocks: Vec<String> },
    /// The captures of batches for the curvature of a method, each rank its own.
    Curvature { of: Method, estimate: Estimate },
    /// Products with the Gauss-Newton matrix of one of the samples of rows of a method's refinement, each rank of its own
    /// batches; the directions follow.
    Products { of: Method, sample: usize, measured: bool },
    /// The gradients of pieces of a batch, each rank its own; the parameters follow.
    Pieces { seed: u64, pieces: Vec<Vec<usize>> },
    /// Nothing more.
    End,
}

/// A method by its place among those that the ranks know, and its settings, in which they must agree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Method {
    pub(crate) place: usize,
    pub(crate) settings: String,
}

/// The gradients that are scored, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scoring {
    pub(crate) of: Method,
    pub(crate) draw: usize,
    pub(crate) train: Located,
    pub(crate) query: Located,
    /// The queries that are asked; `None` for all.
    pub(crate) queries: Option<Range<usize>>,
    /// Another file that the curvature is of.
    pub(crate) curvature: Option<Located>,
    /// Queries whose mean is subtracted.
    pub(crate) contrast: Option<Located>,
    /// Whether the queries are scored one by one.
    pub(crate) each: bool,
    pub(crate) block_scores: bool,
}

/// A file of gradients, and what some of it says: a rank that has another one under this path must not score it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Located {
    pub(crate) path: PathBuf,
    /// [`GradientFile::excerpt`](hyperinf_store::GradientFile::excerpt).
    pub(crate) excerpt: String,
}

/// Work on blocks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BlockWork {
    pub(crate) what: What,
    pub(crate) scoring: Scoring,
    /// The owner of each block.
    pub(crate) owners: Vec<usize>,
    /// Whose curvature of a rank's blocks follows.
    pub(crate) known: Option<Origin>,
}

/// What is computed of each block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum What {
    Scores,
    SelfInfluence,
    /// The products of samples with each other, or the cosines of their gradients.
    Products {
        samples: Vec<usize>,
        cosines: bool,
    },
    /// The curvature of the training gradients.
    Curvature,
    /// The preconditioned queries for scores of tokens.
    Queries,
}

/// Where a known curvature comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    Model,
    TrainingGradients,
}

/// Work on batches of merged blocks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RowWork {
    pub(crate) scoring: Scoring,
    /// Whether the sums of the batches are wanted, first.
    pub(crate) sums: bool,
    /// Whether their scores are.
    pub(crate) scores: bool,
    /// Whether the method has a curvature, which follows.
    pub(crate) curvature: bool,
}
