//! The built-in task: 1,797 images of digits and a perceptron, small enough to be trained hundreds of times.
//!
//! Retraining runs in [`Perceptron`], a training loop of its own on plain vectors in f64: a step of a batch of 32 is a
//! handful of small products, which cost less than the bookkeeping of an autodiff graph. What it trains is a Burn
//! module all the same ([`PerceptronModule`]), whose gradients and losses it agrees with.

mod images;
mod module;
mod perceptron;
mod recipe;
mod task;

pub use images::{CLASSES, Images, PIXELS, digits};
pub use module::{Labelled, PerceptronModule};
pub use perceptron::Perceptron;
pub use recipe::{Length, Optimizer, Recipe};
pub use task::DigitsTask;
