use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::CurvatureError;

/// The tensor in f64 where its device has f64, unchanged elsewhere.
pub fn precise<const R: usize>(tensor: Tensor<R>) -> Tensor<R> {
    let dtype = precise_type(&tensor.device(), tensor.dtype());
    tensor.cast(dtype)
}

/// f64 where the device has it, else the given type.
pub(crate) fn precise_type(device: &Device, dtype: DType) -> DType {
    if device.supports_dtype(DType::F64) { DType::F64 } else { dtype }
}

/// The smallest mean square of gradients whose products a type holds with all their digits: 1e-30, and 1e-290 in f64.
pub fn least_square(dtype: DType) -> f64 {
    if dtype == DType::F64 { 1e-290 } else { 1e-30 }
}

/// A tensor's values in row-major order as f64 on the host.
///
/// # Errors
///
/// If the device fails.
pub fn host<const R: usize>(tensor: Tensor<R>) -> Result<Vec<f64>, CurvatureError> {
    tensor.into_data_dtype(DType::F64).try_into_vec::<f64>().map_err(|e| CurvatureError::Read(format!("{e:?}")))
}

/// `[rows, cols]` on a device from row-major f64 values, in the given type.
pub fn tensor_from_host(values: Vec<f64>, shape: [usize; 2], device: &Device, dtype: DType) -> Tensor<2> {
    let data = TensorData::new(values, shape);
    Tensor::from_data(data, (device, dtype))
}

/// Row sums of the entry-wise product of two `[n, D]` tensors, `⟨left_i, right_i⟩`, read back as f64.
///
/// # Errors
///
/// If the device fails.
pub fn scalars(left: Tensor<2>, right: Tensor<2>) -> Result<Vec<f64>, CurvatureError> {
    let [n, d] = left.dims();
    host(left.reshape([n, 1, d]).matmul(right.reshape([n, d, 1])))
}
