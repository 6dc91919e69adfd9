//! Per-sample gradients of any Burn model, from one backward pass per batch.
//!
//! A model runs once with a [`Tape`]. Each layer leaves a [`Capture`]: its inputs `a` and its output gradients `δ`, the
//! gradient of the summed loss at the layer's outputs. The per-sample gradient of the layer's weight is then the
//! product `g_i = a_iᵀ δ_i`; nothing else of the model is needed.
//!
//! | item | purpose |
//! |---|---|
//! | [`Task`] | the trait to implement: outputs and per-sample losses of a batch |
//! | [`Tape`] | applies layers and records their inputs and outputs |
//! | [`capture`] | one backward pass: a [`Capture`] per block |
//! | [`gradients`] | the same, multiplied out: a [`Gradients`] |
//! | [`estimated`] | the captures of an [`Estimate`] of the curvature, for tasks with a [`Likelihood`] |
//! | [`hessian_products`], [`gauss_newton_products`], [`GaussNewton`] | products with the two matrices of a whole model, which are never formed |
//! | [`Projection`] | shrinks gradients or captures on both sides of each block |
//! | [`gradients_looped`] | one backward pass per sample, for any module: the fallback and the oracle |
//!
//! ```
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::Tensor;
//! use hyperinf_gradients::{Tape, Target, Task, gradients};
//!
//! /// Linear regression: L = ½ (x W − y)².
//! struct Regression(Linear);
//!
//! impl Task for Regression {
//!     type Batch = (Tensor<2>, Tensor<2>);
//!
//!     fn forward(&self, (x, _): &Self::Batch, tape: &mut Tape) -> Tensor<2> {
//!         tape.linear("layer", &self.0, x.clone())
//!     }
//!
//!     fn loss(&self, outputs: Tensor<2>, (_, y): &Self::Batch) -> Tensor<1> {
//!         (outputs - y.clone()).square().sum_dim(1).squeeze_dim(1) / 2.0
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (_, device) = hyperinf_tests::devices().remove(0);
//! let model = Regression(LinearConfig::new(2, 1).with_bias(false).init(&device));
//! let x = Tensor::from_data([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], &device);
//! let y = Tensor::from_data([[0.0], [1.0], [0.0]], &device);
//! let found = gradients(&model, &(x, y), Target::Loss)?;
//! // Three samples of one block, 2 inputs × 1 output.
//! assert_eq!(found.blocks[0].dims(), [3, 2, 1]);
//! assert_eq!(found.layout[0].name, "layer");
//! # Ok(())
//! # }
//! ```

mod block;
mod capture;
mod error;
mod estimate;
mod gradients;
mod looped;
mod products;
mod projection;
mod random;
mod tape;
mod task;

// The crates whose types are in signatures, and the operations, so that a manifest need not name them.
pub use {burn, hyperinf_linalg, hyperinf_ops};

pub use block::Block;
pub use capture::Capture;
pub use error::GradientError;
pub use estimate::{Estimate, Family, Likelihood, Sketch, estimated};
pub use gradients::{Gradients, same_layout};
pub use looped::gradients_looped;
pub use products::{BatchSums, Difference, GaussNewton, Products, gauss_newton_products, hessian_products};
pub use projection::{Entries, Projection, Sides};
pub use tape::Tape;
pub use task::{Captures, Target, Task, capture, gradients};
