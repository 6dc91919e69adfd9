use std::sync::Arc;

use hyperinf_curvature::{Damping, Scale, Side, Storage};
use hyperinf_solvers::{Cg, DataInf, Exact, Lissa, Schulz, Solver};

/// How a query's gradient is turned into scores.
#[derive(Clone)]
pub enum Method {
    /// The dot product with every training gradient.
    Identity,
    /// The dot product over both norms, taken over all blocks together.
    Cosine,
    /// The dot product after `(H + λI)⁻¹`: any storage that the solver supports.
    Inverse {
        /// How a block's curvature is stored.
        storage: Storage,
        /// How it is inverted.
        solver: Arc<dyn Solver>,
    },
}

impl Method {
    /// A method of a storage and a solver, one's own included.
    pub fn inverse(storage: Storage, solver: impl Solver + 'static) -> Self {
        Self::Inverse { storage, solver: Arc::new(solver) }
    }
}

/// Whether queries are scored one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryMode {
    /// One row of scores per query.
    #[default]
    Each,
    /// One row: the scores for the mean of the queries' gradients.
    Mean,
}

/// The choices of [`attribute`](crate::attribute).
///
/// | name | default | purpose | range |
/// |---|---|---|---|
/// | `method` | HyperINF | how scores are computed | see [`methods`] |
/// | `damping` | relative 0.1 | `λ` of each block | positive, finite |
/// | `query` | each | one row per query, or their mean | |
/// | `merged` | false | one matrix over all blocks instead of one per block | |
/// | `block_scores` | false | keep each block's part of the scores | |
#[derive(Clone)]
pub struct Options {
    /// How scores are computed.
    pub method: Method,
    /// The damping of each block.
    pub damping: Damping,
    /// Each query or their mean.
    pub query: QueryMode,
    /// All blocks side by side as one, instead of one matrix per block.
    pub merged: bool,
    /// Keep each block's part of the scores.
    pub block_scores: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: Method::inverse(Gfim::default().storage(), Schulz::default()),
            damping: Damping::default(),
            query: QueryMode::default(),
            merged: false,
            block_scores: false,
        }
    }
}

/// The choices of the generalized Fisher information matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gfim {
    /// The side that is summed over.
    pub side: Side,
    /// Whether its length is divided out.
    pub scale: Scale,
}

impl Gfim {
    /// The storage with these choices.
    pub fn storage(self) -> Storage {
        Storage::OneSided { side: self.side, scale: self.scale }
    }
}

/// A method under its name, as `hyperinf methods` lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodInfo {
    /// The name.
    pub name: &'static str,
    /// What it computes, in one line.
    pub summary: &'static str,
    /// What it costs, for `n` samples and a block of `D = r·d` parameters.
    pub cost: &'static str,
    /// Where it comes from.
    pub source: &'static str,
}

/// Every named method.
pub fn methods() -> &'static [MethodInfo] {
    &[
        MethodInfo {
            name: "identity",
            summary: "dot product of the gradients (TracIn at one checkpoint, Hessian-free)",
            cost: "nD per query",
            source: "Pruthi et al. 2020, eq. 1",
        },
        MethodInfo {
            name: "cosine",
            summary: "dot product over both norms, all blocks together",
            cost: "nD per query",
            source: "Hanawa et al. 2021, sec. 3",
        },
        MethodInfo {
            name: "datainf",
            summary: "mean of the samples' own inverses in place of the inverse of their mean",
            cost: "two products nD per query; holds a block's gradients",
            source: "Kwon et al. 2024, eq. 5",
        },
        MethodInfo {
            name: "lissa",
            summary: "Neumann series of the scaled empirical Fisher, full batches",
            cost: "two products nD per step; holds a block's gradients or D²",
            source: "Agarwal et al. 2017, sec. 3; Koh and Liang 2017, sec. 3",
        },
        MethodInfo {
            name: "cg",
            summary: "conjugate gradients on the empirical Fisher, all queries at once",
            cost: "two products nD per step in f64; holds a block's gradients or D²",
            source: "Hestenes and Stiefel 1952; Martens 2010, sec. 4",
        },
        MethodInfo {
            name: "exact",
            summary: "exact inverse of the empirical Fisher: Cholesky, or the n × n dual",
            cost: "n²D + n³/3 (dual) or nD² + D³/3; holds a block's gradients or D²",
            source: "Koh and Liang 2017, eq. 2; Woodbury 1950",
        },
        MethodInfo {
            name: "hyperinf",
            summary: "generalized Fisher (one factor per block) inverted by Chebyshev-scaled Schulz",
            cost: "2nrd² once, 4d³ per step, d² memory",
            source: "Zhou et al. 2024, sec. 3",
        },
        MethodInfo {
            name: "hyperinf-authors",
            summary: "the authors' program: unscaled GFIM, 0.001 on the diagonal, 30 Schulz steps from 5e-5·I",
            cost: "2nrd² once, 30 × 4d³, d² memory",
            source: "Zhou et al. 2024, published program",
        },
    ]
}

/// The method of that name; `gfim` matters to `hyperinf` and, but for its scale, to `hyperinf-authors`.
pub fn method(name: &str, gfim: Gfim) -> Option<Method> {
    Some(match name {
        "identity" => Method::Identity,
        "cosine" => Method::Cosine,
        "datainf" => Method::inverse(Storage::Samples, DataInf),
        "lissa" => Method::inverse(Storage::Full, Lissa::default()),
        "cg" => Method::inverse(Storage::Full, Cg::default()),
        "exact" => Method::inverse(Storage::Full, Exact),
        "hyperinf" => Method::inverse(gfim.storage(), Schulz::default()),
        "hyperinf-authors" => Method::inverse(Gfim { scale: Scale::Sum, ..gfim }.storage(), Schulz::authors()),
        _ => return None,
    })
}
