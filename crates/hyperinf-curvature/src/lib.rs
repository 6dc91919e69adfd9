//! Curvature of the loss, one damped matrix per block of parameters.
//!
//! Three independent choices make a method: *estimate* (what is sent back from the outputs), *structure* (how a
//! block is stored) and *solver* (how it is inverted). This crate holds the first two; it inverts nothing.
//!
//! The estimate here is the **empirical Fisher** `F = (1/n) Σ g_i g_iᵀ` of the true-label losses, accumulated
//! over batches by an [`Accumulator`] into one [`Curvature`] per block.

mod accumulate;
mod curvature;
mod damping;
mod eigen;
mod error;
mod kronecker;
mod low_rank;
mod precision;
mod product;
mod rotate;
mod storage;

pub use accumulate::{Accumulator, BlockCurvature};
pub use curvature::{Curvature, Scale, Side, Structure};
pub use damping::Damping;
pub use error::CurvatureError;
pub use precision::{host, precise, scalars, tensor_from_host};
pub use product::{
    combine, combine_precise, dots, dots_precise, gram, gram_precise, normal_product, outer, squares, symmetric_product,
};
pub use rotate::rotate;
pub use storage::Storage;
