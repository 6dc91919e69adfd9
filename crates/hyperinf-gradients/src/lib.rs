//! Per-sample gradients of any Burn model, from one backward pass per batch.
//!
//! A model runs once with a [`Tape`]. Each layer leaves a [`Capture`]: what went in (`a`) and what came
//! back (`δ`, the gradient of the summed loss at the layer's outputs). The per-sample gradient of the layer's
//! weight is then the product `g_i = a_iᵀ δ_i`, and nothing else of the model is needed.
//!
//! | item | what it is |
//! |---|---|
//! | [`Task`] | what a user implements: outputs and per-sample losses of a batch |
//! | [`Tape`] | passes linear layers through and notes their inputs and outputs |
//! | [`capture`] | one backward pass: a [`Capture`] per block |
//! | [`gradients`] | the same, multiplied out: a [`Gradients`] |
//! | [`estimated`] | the captures of an [`Estimate`] of the curvature, for tasks with a [`Likelihood`] |
//! | [`Projection`] | gradients or captures made small, on both sides of each block |
//! | [`gradients_looped`] | one backward pass per sample, for any module: the fallback and the oracle |

mod block;
mod capture;
mod error;
mod estimate;
mod gradients;
mod looped;
mod projection;
mod random;
mod tape;
mod task;

pub use block::Block;
pub use capture::Capture;
pub use error::GradientError;
pub use estimate::{Estimate, Family, Likelihood, Sketch, estimated};
pub use gradients::{Gradients, same_layout};
pub use looped::gradients_looped;
pub use projection::{Entries, Projection, Sides};
pub use tape::Tape;
pub use task::{Captures, Target, Task, capture, gradients};
