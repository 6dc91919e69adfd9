use burn::tensor::{Tensor, assert_shape};

/// `leftᵀ V right` for each row of `V`, `[q, rows · cols]`, seen as a matrix `[rows, cols]`: its coordinates in the
/// bases whose vectors are the columns of `left` `[rows, k]` and `right` `[cols, m]`. The result is `[q, k · m]`.
///
/// # Panics
///
/// If `V` has not `rows · cols` columns.
pub fn rotate(v: Tensor<2>, left: Tensor<2>, right: Tensor<2>) -> Tensor<2> {
    let ([rows, k], [cols, m]) = (left.dims(), right.dims());
    let d = rows * cols;
    assert_shape!(v, [_, d]);
    let q = v.dims()[0];
    // Two products of two dimensions each: batches of small matrices are slower.
    let half = v.reshape([q * rows, cols]).matmul(right).reshape([q, rows, m]);
    let turned = half.swap_dims(1, 2).reshape([q * m, rows]).matmul(left);
    turned.reshape([q, m, k]).swap_dims(1, 2).reshape([q, k * m])
}
