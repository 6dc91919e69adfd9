//! The built-in task: 1,797 images of digits and a perceptron, small enough to be trained hundreds of times.
//!
//! Retraining runs in [`Perceptron`], a training loop of its own on plain vectors in f64: half of the time of Burn's
//! autodiff at this size, the same numbers whatever the device, and one training per thread. What it trains is a Burn
//! module all the same ([`PerceptronModule`]), with whose gradients and training it agrees to rounding.

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
