//! Curvature of the loss, one damped matrix per block of parameters.
//!
//! Three independent choices make a method: *estimate* (what is sent back from the outputs), *structure* (how a
//! block is stored) and *solver* (how it is inverted). This crate holds the second; it inverts nothing.
//!
//! An [`Accumulator`] sums `F = (1/n) Σ g_i g_iᵀ` over batches into one [`Curvature`] per block: the empirical Fisher
//! of the samples' own gradients, or whatever an estimate's pseudo-samples add up to.
//!
//! | storage | made of | structure | memory |
//! |---|---|---|---|
//! | [`Storage::Dense`] | gradients | dense | `D²` |
//! | [`Storage::Samples`], [`Storage::Full`] | gradients | samples (or dense) | `nD` (at most `D²`) |
//! | [`Storage::OneSided`] | gradients | one-sided | `rows²` or `cols²` |
//! | [`Storage::Diagonal`] | gradients | diagonal | `D` |
//! | [`Storage::Kronecker`] | captures | Kronecker | `rows² + cols² + D` |
//! | [`Storage::TwoSided`] | gradients | Kronecker | `rows² + cols² + D` |
//! | [`Storage::LowRank`] | gradients | eigenpairs | `2D(2·rank + 1)`, then `D·rank` |

mod accumulate;
mod curvature;
mod damping;
mod error;
mod kronecker;
mod low_rank;
mod storage;

pub use accumulate::{Accumulator, BlockCurvature};
pub use curvature::{Curvature, Scale, Side, Structure};
pub use damping::Damping;
pub use error::CurvatureError;
pub use storage::Storage;
