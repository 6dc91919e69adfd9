use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::ReadError;

/// The tensor in f64 where its device has f64, unchanged elsewhere.
pub fn precise<const R: usize>(tensor: Tensor<R>) -> Tensor<R> {
    let dtype = precise_type(&tensor.device(), tensor.dtype());
    tensor.cast(dtype)
}

/// f64 where the device has it, else the given type.
pub fn precise_type(device: &Device, dtype: DType) -> DType {
    if device.supports_dtype(DType::F64) { DType::F64 } else { dtype }
}

/// The spacing of numbers at 1 in a type.
pub fn epsilon(dtype: DType) -> f64 {
    dtype.finfo().map_or(f64::EPSILON, |info| info.epsilon)
}

/// The smallest mean square of values whose products a type holds with all their digits: 1e-30, and 1e-290 in f64.
pub fn least_square(dtype: DType) -> f64 {
    if dtype == DType::F64 { 1e-290 } else { 1e-30 }
}

/// Whether a device has separate memory, as a graphics card does: kernels then use the whole device, and values
/// travel to the host and back.
pub fn has_own_memory(device: &Device) -> bool {
    // Only such a device reports a memory pool.
    device.memory_pool_usage().is_some()
}

/// A tensor's values in row-major order, as f64 on the host.
///
/// # Errors
///
/// If the device fails.
pub fn host<const R: usize>(tensor: Tensor<R>) -> Result<Vec<f64>, ReadError> {
    let values = tensor.into_data_dtype(DType::F64).try_into_vec::<f64>();
    values.map_err(|error| ReadError { reason: format!("{error:?}") })
}

/// `[rows, cols]` on a device from row-major f64 values, in the given type.
///
/// # Panics
///
/// If there are not `rows · cols` values.
pub fn tensor_from_host(values: Vec<f64>, shape: [usize; 2], device: &Device, dtype: DType) -> Tensor<2> {
    let data = TensorData::new(values, shape);
    Tensor::from_data(data, (device, dtype))
}
