//! Damped inverse-curvature products: rows `X` with `X (H + λI) = V`, each with the residual it reached.
//!
//! A [`Solver`] is prepared once per block and then applied to every batch of right-hand sides. [`solvers`] lists
//! those of this crate; a user's own implements the same trait.
//!
//! | solver | structures | what `prepare` costs | what `apply` costs per row |
//! |---|---|---|---|
//! | [`Identity`] | all | nothing | nothing |
//! | [`Exact`] | all | `D³/3`, `k³/3` (one-sided), `n²D + n³/3` (samples, dual) | two triangular solves |
//! | [`Schulz`] | dense, one-sided | `4k³` per step | one product |
//! | [`DataInf`] | samples | `nD` | two products with the samples |
//! | [`Lissa`] | all | a spectral bound | one product with `H` per step |
//! | [`Cg`] | all | nothing | one product with `H` per step |

mod cg;
mod datainf;
mod error;
mod exact;
mod factor;
mod identity;
mod lissa;
mod registry;
mod schulz;
mod solver;
mod spectrum;

pub use cg::Cg;
pub use datainf::DataInf;
pub use error::SolveError;
pub use exact::Exact;
pub use identity::Identity;
pub use lissa::{Lissa, LissaBatch};
pub use registry::{solver, solvers};
pub use schulz::{MatrixInverse, Schulz, SchulzStart, schulz_inverse};
pub use solver::{Inverse, Solution, Solver, relative_residuals};
pub use spectrum::{certain_bound, largest_eigenvalue, spectral_bound};
