use burn::tensor::Tensor;

/// Diagonal blocks up to this size are multiplied whole; larger ones are split to save work by symmetry.
const PANEL: usize = 256;

/// `J Jᵀ`, `[n, n]` for `[n, D]`: the Gram matrix of the rows.
///
/// Only the lower block triangle is multiplied; the upper is its mirror image, so large matrices cost little more
/// than half of the full product.
pub fn gram(rows: Tensor<2>) -> Tensor<2> {
    let [n, _] = rows.dims();
    if n <= PANEL {
        return rows.clone().matmul(rows.transpose());
    }
    let half = (n / 2).next_multiple_of(64);
    let (upper, lower) = (rows.clone().slice([0..half]), rows.slice([half..n]));
    let corner = lower.clone().matmul(upper.clone().transpose());
    let top = Tensor::cat(vec![gram(upper), corner.clone().transpose()], 1);
    let bottom = Tensor::cat(vec![corner, gram(lower)], 1);
    Tensor::cat(vec![top, bottom], 0)
}

/// `JᵀJ`, `[D, D]` for `[n, D]`: the sum of the rows' outer products, at the cost of [`gram`].
pub fn outer(rows: Tensor<2>) -> Tensor<2> {
    gram(rows.transpose())
}
