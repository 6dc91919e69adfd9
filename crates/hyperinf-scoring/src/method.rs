use std::sync::Arc;

use hyperinf_curvature::{Scale, Side, Storage};
use hyperinf_solvers::Solver;

/// How a query's gradient is turned into scores.
#[derive(Clone)]
pub enum Method {
    /// The dot product with every training gradient.
    Identity,
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
