//! The operations between the products, bound by memory.

use burn::tensor::{Tensor, s};
use hyperinf_linalg::{has_own_memory, tensor_from_host};
use rayon::prelude::*;

/// Values in a chunk of rows: 256 KiB of f32, so that all chunks of a sum stay in a core's second-level cache.
const CHUNK: usize = 1 << 16;

/// Each matrix of a batch `[b, k, k]` times its own number.
pub(super) fn weighted(matrices: Tensor<3>, weights: &[f64]) -> Tensor<3> {
    if weights.iter().all(|w| *w == weights[0]) {
        return if weights[0] == 1.0 { matrices } else { matrices.mul_scalar(weights[0]) };
    }
    let (device, dtype) = (matrices.device(), matrices.dtype());
    matrices * tensor_from_host(weights.to_vec(), [weights.len(), 1], &device, dtype).unsqueeze_dim(2)
}

/// The sum of batches `[b, k, k]`, each matrix of each with its own weight.
pub(super) fn sum(terms: &[(Vec<f64>, &Tensor<3>)]) -> Tensor<3> {
    let [b, k, _] = terms[0].1.dims();
    let step = (CHUNK / k).max(1);
    // On a processor a pass over every term and result costs as much as a good part of a product: chunks of rows stay
    // in the cache from the first term to the last, on all cores.
    if b > 1 || k <= step || has_own_memory(&terms[0].1.device()) {
        return added(terms.iter().map(|(weights, term)| weighted((*term).clone(), weights)));
    }
    let chunk = |start: usize| {
        let rows = start..(start + step).min(k);
        added(terms.iter().map(|(weights, term)| weighted((*term).clone().slice(s![.., rows.clone(), ..]), weights)))
    };
    let starts: Vec<usize> = (0..k).step_by(step).collect();
    Tensor::cat(starts.into_par_iter().map(chunk).collect(), 1)
}

fn added(terms: impl Iterator<Item = Tensor<3>>) -> Tensor<3> {
    terms.reduce(|a, b| a + b).expect("a sum has terms")
}
