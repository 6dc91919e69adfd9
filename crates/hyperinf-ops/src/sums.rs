//! Products with constants, and sums.

use burn::tensor::{Tensor, assert_shape};

#[cfg(feature = "flex")]
use crate::apply;
#[cfg(feature = "flex")]
use crate::extension::fits;

/// `x W + b`.
///
/// # Shapes
///
/// `x`: `[m, d_input]`; `weight`: `[d_input, d_output]`; `bias`: `[d_output]`; output: `[m, d_output]`.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn affine(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let [d_input, d_output] = weight.dims();
    assert_shape!(x, [_, d_input]);
    if let Some(bias) = &bias {
        assert_shape!(bias, [d_output]);
    }
    #[cfg(feature = "flex")]
    if fits(&x)
        && (fits(&weight) && !weight.is_tracked())
        && bias.as_ref().is_none_or(|bias| fits(bias) && !bias.is_tracked())
    {
        return apply::linear(x, weight, bias);
    }
    let product = x.matmul(weight);
    match bias {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    }
}

/// `a + b`, in the place of one of them if nothing else holds it.
///
/// # Shapes
///
/// All the same.
///
/// # Panics
///
/// If the shapes differ.
pub fn add<const R: usize>(a: Tensor<R>, b: Tensor<R>) -> Tensor<R> {
    assert_eq!(a.dims(), b.dims(), "add: shapes of both tensors");
    #[cfg(feature = "flex")]
    if fits(&a) && fits(&b) {
        return apply::add(a, b);
    }
    a + b
}

/// `x + zeros`: a leaf of zeros whose gradient is that of the sum. Fused, nothing is added: the zeros may be expanded
/// from one number, and cost nothing, not even a look at their values.
///
/// # Shapes
///
/// All the same.
///
/// # Panics
///
/// If the shapes differ.
pub fn with_leaf<const R: usize>(x: Tensor<R>, zeros: Tensor<R>) -> Tensor<R> {
    assert_eq!(x.dims(), zeros.dims(), "with_leaf: shapes of both tensors");
    #[cfg(feature = "flex")]
    if fits(&x) && fits(&zeros) {
        return apply::with_leaf(x, zeros);
    }
    x + zeros
}
