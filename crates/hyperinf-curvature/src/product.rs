use burn::tensor::{Tensor, s};

/// Diagonal blocks up to this size are multiplied whole; larger ones are split to save work by symmetry.
const PANEL: usize = 256;

/// `L R` for `[n, k]` and `[k, n]` whose product is known to be symmetric, `[n, n]`.
///
/// Only the lower block triangle is multiplied; the upper is its mirror image, so large matrices cost little more
/// than half of the full product.
pub fn symmetric_product(left: Tensor<2>, right: Tensor<2>) -> Tensor<2> {
    let [n, _] = left.dims();
    if n <= PANEL {
        return left.matmul(right);
    }
    let half = (n / 2).next_multiple_of(64);
    let (top, bottom) = (left.clone().slice([0..half]), left.slice([half..n]));
    let (first, last) = (right.clone().slice(s![.., 0..half]), right.slice(s![.., half..n]));
    let corner = bottom.clone().matmul(first.clone());
    let upper = Tensor::cat(vec![symmetric_product(top, first), corner.clone().transpose()], 1);
    let lower = Tensor::cat(vec![corner, symmetric_product(bottom, last)], 1);
    Tensor::cat(vec![upper, lower], 0)
}

/// `J Jᵀ`, `[n, n]` for `[n, D]`: the Gram matrix of the rows, as a [`symmetric_product`].
pub fn gram(rows: Tensor<2>) -> Tensor<2> {
    symmetric_product(rows.clone(), rows.transpose())
}

/// `JᵀJ`, `[D, D]` for `[n, D]`: the sum of the rows' outer products, at the cost of [`gram`].
pub fn outer(rows: Tensor<2>) -> Tensor<2> {
    gram(rows.transpose())
}

/// `X Jᵀ`, `[q, n]`: every row of `X` `[q, D]` with every row of `J` `[n, D]`.
pub fn dots(x: Tensor<2>, rows: Tensor<2>) -> Tensor<2> {
    x.matmul(rows.transpose())
}

/// `C J`, `[q, D]`: for each row of `C` `[q, n]` the weighted sum of the rows of `J` `[n, D]`.
pub fn combine(weights: Tensor<2>, rows: Tensor<2>) -> Tensor<2> {
    weights.matmul(rows)
}
