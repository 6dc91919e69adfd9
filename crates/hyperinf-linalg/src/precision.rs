use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::{ReadError, host};

/// The tensor in f64 where its device has f64, unchanged elsewhere.
pub fn precise<const R: usize>(tensor: Tensor<R>) -> Tensor<R> {
    let dtype = precise_type(&tensor.device(), tensor.dtype());
    tensor.cast(dtype)
}

/// f64 where the device has it, else the given type.
pub fn precise_type(device: &Device, dtype: DType) -> DType {
    if device.supports_dtype(DType::F64) { DType::F64 } else { dtype }
}

/// Whether exponentials, logarithms and their kin are right in f64 on a device; true if it has no f64 at all.
///
/// Vulkan defines them for shaders in 16 and 32 bits only. Burn 0.22 calls them in f64 all the same: garbage comes back
/// without an error, while f64 products, sums, quotients and roots are right. A processor is not asked, and each other
/// device once.
///
/// # Errors
///
/// If the device fails.
pub fn has_f64_functions(device: &Device) -> Result<bool, ReadError> {
    static KNOWN: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
    if !device.supports_dtype(DType::F64) || !has_own_memory(device) {
        return Ok(true);
    }
    let name = format!("{:?}", device.clone().without_autodiff());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&right) = known().get(&name) {
        return Ok(right);
    }
    let x = [0.25, 0.5, 1.0, 2.0];
    let on = || Tensor::<1>::from_data(TensorData::from(x), (&device.clone().without_autodiff(), DType::F64));
    let (powers, logarithms) = (host(on().exp())?, host(on().log())?);
    let right = |found: Vec<f64>, f: fn(f64) -> f64| x.iter().zip(found).all(|(x, y)| (f(*x) - y).abs() < 1e-12);
    let right = right(powers, f64::exp) && right(logarithms, f64::ln);
    known().insert(name, right);
    Ok(right)
}

/// Whether a device rounds the factors of products in f32 to 10 bits, as the tensor cores of NVIDIA's cards do (TF32).
///
/// Burn 0.22 uses them for f32 without a way to ask for all digits: products are then off by some 1e-4 to 1e-3 of the
/// largest number. Products in f64 are exact there. A processor is not asked, and each other device once.
///
/// # Errors
///
/// If the device fails.
pub fn rounds_products(device: &Device) -> Result<bool, ReadError> {
    static KNOWN: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
    if !has_own_memory(device) {
        return Ok(false);
    }
    let name = format!("{:?}", device.clone().without_autodiff());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&rounds) = known().get(&name) {
        return Ok(rounds);
    }
    // 1 + 2⁻¹² needs 12 bits; the sum of 64 of them is a number of f32.
    let ones = Tensor::<2>::ones([64, 64], (&device.clone().without_autodiff(), DType::F32));
    let product = host((ones.clone() + 1.0 / 4096.0).matmul(ones))?;
    let rounds = product.iter().any(|sum| (sum - 64.015_625).abs() > 1e-4);
    known().insert(name, rounds);
    Ok(rounds)
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

/// `[rows, cols]` on a device from row-major f64 values, in the given type.
///
/// # Panics
///
/// If there are not `rows · cols` values.
pub fn tensor_from_host(values: Vec<f64>, shape: [usize; 2], device: &Device, dtype: DType) -> Tensor<2> {
    let data = TensorData::new(values, shape);
    Tensor::from_data(data, (device, dtype))
}
