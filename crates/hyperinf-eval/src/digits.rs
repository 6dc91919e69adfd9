//! The built-in task: 1,797 images of digits and a perceptron, small enough to be trained hundreds of times.
//!
//! Retraining uses [`Perceptron`], a training loop on plain vectors in f64: at this size twice as fast as Burn's
//! autodiff, the same numbers on every device, and one training per thread. [`PerceptronModule`] is the same model as
//! a Burn module; gradients and training of both agree to rounding.

mod config;
mod images;
mod module;
mod perceptron;
mod recipe;
mod task;

pub use config::DigitsConfig;
pub use images::{CLASSES, Images, PIXELS, digits};
pub use module::{Labelled, PerceptronModule};
pub use perceptron::Perceptron;
pub use recipe::{Length, Optimizer, Recipe};
pub use task::DigitsTask;
