//! The way to the host: every read waits until the device has done what was asked of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{DType, Tensor};

use crate::ReadError;

static READS: AtomicUsize = AtomicUsize::new(0);

/// A tensor's values in row-major order, as f64 on the host.
///
/// # Errors
///
/// If the device fails.
pub fn host<const R: usize>(tensor: Tensor<R>) -> Result<Vec<f64>, ReadError> {
    READS.fetch_add(1, Ordering::Relaxed);
    let failed = |reason: String| ReadError { reason };
    let data = tensor.try_into_data_dtype(DType::F64).map_err(|error| failed(error.to_string()))?;
    data.try_into_vec::<f64>().map_err(|error| failed(format!("{error:?}")))
}

/// [`host`] of several tensors of one device with one read, or one for each type among them.
///
/// # Errors
///
/// If the device fails.
pub fn host_each<const R: usize>(tensors: &[Tensor<R>]) -> Result<Vec<Vec<f64>>, ReadError> {
    let count = |tensor: &Tensor<R>| tensor.shape().num_elements();
    let mut found = vec![Vec::new(); tensors.len()];
    let mut left: Vec<usize> = (0..tensors.len()).filter(|&place| count(&tensors[place]) > 0).collect();
    while let Some(&first) = left.first() {
        let of_type = |place: &usize| tensors[*place].dtype() == tensors[first].dtype();
        let (same, others): (Vec<usize>, Vec<usize>) = left.into_iter().partition(of_type);
        if let [only] = same[..] {
            found[only] = host(tensors[only].clone())?;
        } else {
            let flat = |&place: &usize| tensors[place].clone().reshape([count(&tensors[place])]);
            let values = host(Tensor::<1>::cat(same.iter().map(flat).collect(), 0))?;
            let mut rest = &values[..];
            for place in same {
                let (values, more) = rest.split_at(count(&tensors[place]));
                found[place] = values.to_vec();
                rest = more;
            }
        }
        left = others;
    }
    Ok(found)
}

/// How often this process has read by [`host`] and [`host_each`].
pub fn reads() -> usize {
    READS.load(Ordering::Relaxed)
}
