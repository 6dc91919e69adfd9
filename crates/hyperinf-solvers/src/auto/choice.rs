//! The solver that [`crate::Auto`] picks for a block, and the reason.

use std::fmt;

use hyperinf_curvature::Structure;
use serde::{Deserialize, Serialize};

/// A choice of [`crate::Auto`] for one block.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The name of the solver.
    pub solver: &'static str,
    /// Why.
    pub reason: Reason,
}

/// Why [`crate::Auto`] picked a solver. Displays as the sizes and the estimates that were compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// There is no damping to invert at.
    NoDampings,
    /// The eigenvalues are known already.
    NothingToFactorise(Structure),
    /// Held samples: the smaller of the dual `[m, m]` and the primal `[D, D]`.
    Samples {
        /// The samples `m`.
        samples: usize,
        /// The parameters `D`.
        parameters: usize,
        /// The number of dampings.
        dampings: usize,
        /// The cost of each way, where it decided for one eigendecomposition.
        estimate: Option<Estimate>,
    },
    /// A matrix: the way with the lowest estimated cost.
    Matrix {
        /// The side `k` of the matrix.
        size: usize,
        /// A bound on the condition of `H + λI` at the smallest damping.
        condition: f64,
        /// Rows of length `k` to which the inverse is assumed to be applied.
        right_hand_sides: usize,
        /// The queries behind them: [`crate::Auto::queries`].
        queries: usize,
        /// The number of dampings.
        dampings: usize,
        /// The cost of each way.
        estimate: Estimate,
    },
}

/// Estimated seconds of each way to invert, for all dampings and right-hand sides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Cholesky factorisation on the host.
    pub cholesky: f64,
    /// One eigendecomposition on the host.
    pub spectral: f64,
    /// The hyperpower iteration of order 9 on the device; `None` where there is no matrix to iterate on.
    pub hyperpower: Option<IterationEstimate>,
}

/// The estimated cost of a matrix iteration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IterationEstimate {
    /// Seconds for all dampings and right-hand sides.
    pub seconds: f64,
    /// Products of two matrices for one damping.
    pub products: usize,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoDampings => f.write_str("no dampings"),
            Self::NothingToFactorise(structure) => write!(f, "{structure:?}: nothing to factorise"),
            Self::Samples { samples, parameters, dampings, estimate } => {
                let side = if samples <= parameters { "dual" } else { "primal" };
                let size = samples.min(parameters);
                write!(f, "{side} of {size} × {size} for {samples} samples of {parameters} parameters, ")?;
                write!(f, "{}", Dampings(dampings))?;
                estimate.map_or(Ok(()), |estimate| write!(f, ": {estimate}"))
            }
            Self::Matrix { size, condition, right_hand_sides, queries, dampings, estimate } => write!(
                f,
                "{size} × {size}, condition at most {condition:.0e}, {right_hand_sides} right-hand sides for \
                 {queries} queries assumed, {}: {estimate}",
                Dampings(dampings)
            ),
        }
    }
}

/// A count of dampings in words.
struct Dampings(usize);

impl fmt::Display for Dampings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "damping" } else { "dampings" })
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "estimated {:.1e} s by Cholesky, {:.1e} s by eigenvectors", self.cholesky, self.spectral)?;
        match self.hyperpower {
            Some(IterationEstimate { seconds, products }) => {
                write!(f, ", {seconds:.1e} s by {products} products (hyperpower-9)")
            }
            None => Ok(()),
        }
    }
}
