//! Between tensors and the oracles, and the one comparison that all tests use.

use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf::linalg::has_f64_functions;

use crate::oracle::Matrix;

/// A tensor of rank 2 in the given type.
pub fn tensor(matrix: &Matrix, device: &Device, dtype: DType) -> Tensor<2> {
    let data = TensorData::new(matrix.values.clone(), [matrix.rows, matrix.cols]);
    Tensor::from_data(data, (device, dtype))
}

/// A tensor's values as f64, in row-major order.
pub fn values<const R: usize>(tensor: Tensor<R>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_into_vec().expect("the data was converted to f64")
}

/// A tensor as a matrix: the first dimension stays, the others become one.
pub fn matrix<const R: usize>(tensor: Tensor<R>) -> Matrix {
    let dims = tensor.dims();
    Matrix { rows: dims[0], cols: dims[1..].iter().product(), values: values(tensor) }
}

/// The largest magnitude.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Fails unless every value is within `tolerance` of its expectation, relative to the *largest* expected magnitude.
///
/// # Panics
///
/// With both values and their place if one differs, is NaN, or the lengths differ.
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_within(what, found, expected, tolerance * largest(expected));
}

/// Fails unless every value is within `bound` of its expectation.
///
/// # Panics
///
/// As [`assert_close`].
pub fn assert_within(what: &str, found: &[f64], expected: &[f64], bound: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        // False for NaN.
        let near = (f - e).abs() <= bound;
        assert!(near, "{what}: value {i} is {f}, expected {e} within {bound:e}");
    }
}

/// The types that a device has of f32 and f64, each with its precision; f64 only where its functions are right.
pub fn precisions(device: &Device) -> Vec<(DType, f64)> {
    let both = [(DType::F32, f64::from(f32::EPSILON)), (DType::F64, f64::EPSILON)];
    let functions = has_f64_functions(device).expect("the device works");
    let has = |dtype| device.supports_dtype(dtype) && (dtype == DType::F32 || functions);
    both.into_iter().filter(|(dtype, _)| has(*dtype)).collect()
}
