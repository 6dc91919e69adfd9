//! Damped matrices of known condition, and the error of an inverse.

use burn::tensor::{Device, Distribution, Tensor};
use hyperinf::curvature::{Curvature, Dense};
use hyperinf::linalg::{outer, precise, scalars};
use hyperinf::solvers::spectral_bound;

/// `A = H + λI` with the bounds of its eigenvalues.
pub struct Damped {
    /// `A`, `[d, d]` in f32.
    pub a: Tensor<2>,
    /// The smallest eigenvalue is no smaller.
    pub lower: f64,
    /// The largest is no larger.
    pub upper: f64,
}

/// The matrix of `d/4` random samples whose columns decay as `1/√j`, damped to this condition number.
///
/// # Panics
///
/// If the device does not work.
pub fn damped(d: usize, condition: f64, device: &Device) -> Damped {
    device.seed(0);
    let decay: Vec<f32> = (0..d).map(|j| 1.0 / (1.0 + j as f32).sqrt()).collect();
    let decay = Tensor::<1>::from_floats(decay.as_slice(), device).reshape([1, d]);
    let samples = Tensor::<2>::random([d / 4, d], Distribution::Normal(0.0, 1.0), device) * decay;
    let h = outer(samples).div_scalar(d as f64 / 4.0);
    let upper = spectral_bound(&Curvature::from(Dense { matrix: h.clone() }), &h).expect("the device works");
    let lower = upper / condition;
    Damped { a: h + Tensor::eye(d, device).mul_scalar(lower), lower, upper: upper + lower }
}

/// `||I − A X||_F / √d`, with the product in f64 where the device has it.
///
/// # Panics
///
/// If the device does not work.
pub fn error(a: &Tensor<2>, x: Tensor<2>) -> f64 {
    let (d, device) = (a.dims()[0], a.device());
    let product = precise(a.clone()).matmul(precise(x));
    let rest = Tensor::<2>::eye(d, &device).cast(product.dtype()) - product;
    let square: f64 = scalars(rest.clone(), rest).expect("the device works").iter().sum();
    (square / d as f64).sqrt()
}
