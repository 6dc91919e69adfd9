//! A [`Team`](https://docs.rs/hyperinf-scoring) over MPI, for the processes of `mpiexec` and `srun`.
//!
//! Everything is behind the feature `mpi`, which needs an MPI library with its compiler wrapper `mpicc`, and libclang.

#[cfg(feature = "mpi")]
mod world;

// The crate whose types are in signatures, so that a manifest need not name it.
#[cfg(feature = "mpi")]
pub use hyperinf_scoring;
#[cfg(feature = "mpi")]
pub use world::{Ranks, World};
