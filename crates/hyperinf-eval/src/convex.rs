//! Convex models whose answers are exact: ridge regression in closed form, logistic regression to rounding.

mod logistic;
mod ridge;
mod rows;

pub use logistic::Logistic;
pub use ridge::Ridge;
pub use rows::Rows;
