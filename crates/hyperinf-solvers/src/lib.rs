//! Damped inverse-curvature products: rows `X` with `X (H + λI) = V`, each with the residual it reached.
//!
//! A [`Solver`] prepares an [`Inverse`] once per block, which is then applied to every batch of right-hand sides.
//! [`solvers`] lists those of this crate; your own implements the same trait.
//!
//! ```
//! use burn::tensor::Tensor;
//! use hyperinf_curvature::{Curvature, Dense};
//! use hyperinf_solvers::{Cg, Solver};
//!
//! # fn main() -> Result<(), hyperinf_solvers::SolveError> {
//! # let (_, device) = hyperinf_tests::devices().remove(0);
//! let h = Curvature::from(Dense { matrix: Tensor::from_data([[2.0, 1.0], [1.0, 4.0]], &device) });
//! let inverse = Cg::default().prepare(&h, 1.0)?;
//!
//! let v = Tensor::<2>::from_data([[4.0, 6.0]], &device);
//! let mut residuals = Vec::new();
//! let solution = inverse.apply_observed(v, &mut |step| residuals.push(step.residuals[0]))?;
//! assert!(solution.converged() && residuals.is_sorted_by(|a, b| a > b));
//! for x in solution.x.into_data().iter::<f32>() {
//!     assert!((x - 1.0).abs() < 1e-5);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | solver | structures | cost of `prepare` | cost of `apply` per row |
//! |---|---|---|---|
//! | [`Identity`] | all | none | none |
//! | [`Exact`] | all | `D³/3`, `k³/3` (one-sided), `n²D + n³/3` (samples, dual) | two triangular solves |
//! | [`Hyperpower`] | dense, one-sided | `2k³` per product | one product |
//! | [`SpectralSolver`] | all | `9k³` once for every damping | two products |
//! | [`Auto`] | all | the cheapest of exact, hyperpower and spectral | |
//! | [`DataInf`] | samples | `nD` | two products with the samples |
//! | [`Lissa`] | all | a spectral bound | one product with `H` per step |
//! | [`Cg`] | all | a preconditioner, if any | one product with `H` per step |
//! | [`BlockCg`] | all | a preconditioner, if any | one product with `H` per step, fewer steps the more rows |
//! | [`Chebyshev`] | all | a spectral bound | one product with `H` per step, as many steps as planned |
//! | [`Lanczos`] | all | `rank + extra` products of one row with `H` | two products with the eigenvectors |
//! | [`Nystrom`] | all | a product of `rank` rows with `H`, `8 D rank²` | two products with the eigenvectors |

mod auto;
mod cg;
mod cg_block;
mod chebyshev;
mod datainf;
mod error;
mod exact;
mod factor;
mod hyperpower;
mod identity;
mod krylov;
mod lanczos;
mod lissa;
mod low_rank;
mod nystrom;
mod plan;
mod precondition;
mod registry;
mod solver;
mod spectral;
mod spectrum;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use {burn, hyperinf_curvature, hyperinf_linalg};

pub use auto::{Auto, Choice, Estimate, IterationEstimate, Reason};
pub use cg::Cg;
pub use cg_block::BlockCg;
pub use chebyshev::Chebyshev;
pub use datainf::DataInf;
pub use error::SolveError;
pub use exact::Exact;
pub use hyperpower::{Hyperpower, HyperpowerStart, MatrixInverse, MatrixStep, Order};
pub use identity::Identity;
pub use lanczos::{Lanczos, lanczos_eigen};
pub use lissa::{Lissa, LissaBatch, LissaScale};
pub use nystrom::{Nystrom, nystrom_eigen};
pub use plan::{Forecast, MatrixRun, Plan, Work};
pub use precondition::Preconditioner;
pub use registry::{solver, solvers};
pub use solver::{Inverse, Solution, Solver, Step, relative_residuals};
pub use spectral::{Spectral, SpectralSolver};
pub use spectrum::{certain_bound, largest_eigenvalue, spectral_bound};
