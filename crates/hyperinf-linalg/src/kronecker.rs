use burn::tensor::{Tensor, assert_shape};

/// `left ⊗ right`, `[a·c, b·d]` for `[a, b]` and `[c, d]`.
pub fn kronecker(left: Tensor<2>, right: Tensor<2>) -> Tensor<2> {
    let ([a, b], [c, d]) = (left.dims(), right.dims());
    let product = left.reshape([a, 1, b, 1]) * right.reshape([1, c, 1, d]);
    product.reshape([a * c, b * d])
}

/// `V (left ⊗ right)`, `[q, k · m]` for rows `V` `[q, rows · cols]`, `left` `[rows, k]` and `right` `[cols, m]`.
///
/// That is `leftᵀ V right` of each row seen as a matrix `[rows, cols]`: its coordinates in the bases whose vectors are
/// the columns of `left` and `right`. The Kronecker product is never formed.
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
