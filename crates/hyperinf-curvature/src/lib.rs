//! Curvature of the loss, one damped matrix per block of parameters.
//!
//! Three independent choices make a method: *estimate* (which gradients are sent back from the outputs), *structure*
//! (how a block's curvature is stored) and *solver* (how it is inverted). This crate holds the second; it inverts
//! nothing.
//!
//! An [`Accumulator`] sums `F = (1/n) Σ g_i g_iᵀ` over batches into one [`Curvature`] per block: the empirical Fisher
//! from the samples' own gradients, another estimate of the curvature from its pseudo-samples.
//!
//! | storage | computed from | structure | numbers held |
//! |---|---|---|---|
//! | [`Storage::Dense`] | gradients | [`Dense`] | `D²` |
//! | [`Storage::Samples`] | gradients, or captures where they are smaller | [`Samples`], [`Captured`] | `nD`, or `nt(rows + cols)` |
//! | [`Storage::Full`] | gradients | [`Samples`] or [`Dense`] | `nD`, at most `D²` |
//! | [`Storage::OneSided`] | gradients | [`OneSided`] | `rows²` or `cols²` |
//! | [`Storage::Diagonal`] | gradients | [`Diagonal`] | `D` |
//! | [`Storage::Isotropic`] | gradients | [`Isotropic`] | 1 |
//! | [`Storage::Kronecker`] | captures | [`Kronecker`] | `rows² + cols² + D` |
//! | [`Storage::TwoSided`] | gradients | [`Kronecker`] | `rows² + cols² + D` |
//! | [`Storage::LowRank`] | gradients | [`Eigenpairs`] | `2D(2·rank + 1)`, then `D·rank` |
//!
//! ```
//! use burn::tensor::Tensor;
//! use hyperinf_curvature::{Accumulator, Damping, Storage};
//! use hyperinf_gradients::Block;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (_, device) = hyperinf_tests::devices().remove(0);
//! // A layer of 2 inputs and 1 output, whose two samples arrive one by one.
//! let mut sum = Accumulator::new(Block::new("layer", 2, 1), Storage::Diagonal)?;
//! sum.add(Tensor::from_data([[[1.0], [2.0]]], &device))?;
//! sum.add(Tensor::from_data([[[3.0], [0.0]]], &device))?;
//! let found = sum.finish()?;
//!
//! assert_eq!(found.curvature.trace()?, 7.0);
//! // 0.1 × the mean of the diagonal.
//! assert!((Damping::default().lambda(found.mean_square) - 0.35).abs() < 1e-12);
//! # Ok(())
//! # }
//! ```

mod accumulate;
mod curvature;
mod damping;
mod error;
mod from_captures;
mod moments;
mod side;
mod sketch;
mod storage;
mod structures;
mod sum;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use {burn, hyperinf_gradients, hyperinf_linalg};

pub use accumulate::{Accumulator, BlockCurvature, MatrixSum};
pub use curvature::{Curvature, Structure};
pub use damping::Damping;
pub use error::CurvatureError;
pub use side::{Scale, Side};
pub use storage::Storage;
pub use structures::{
    Captured, Core, Dense, Diagonal, Eigenpairs, Isotropic, Kronecker, OneSided, SamplePart, SampleRows, Samples,
    Structured,
};
