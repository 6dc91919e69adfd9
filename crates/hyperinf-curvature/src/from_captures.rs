//! Sums over gradients `g_i = a_iᵀ δ_i` that are taken from their captures: the gradients are not formed.

use burn::tensor::{DType, Tensor};
use hyperinf_gradients::Capture;
use hyperinf_linalg::{outer, precise, precise_type};

/// Whether samples are better held as captures than as gradients: `t·(rows + cols)` numbers in place of `rows·cols`.
///
/// Of several positions at most half as many: products with them may form gradients again.
pub(crate) fn captures_are_smaller(capture: &Capture) -> bool {
    let (t, rows, cols) = (capture.positions(), capture.block.rows, capture.block.cols);
    let factor = if t == 1 { 1 } else { 2 };
    factor * t * (rows + cols) < rows * cols
}

/// Whether [`one_sided`] takes less than the gradients and their products do: `t²(c + k) + t·k²` multiplications per sample
/// against `t·c·k + c·k²`, for a kept side of `k` and a contracted one of `c`.
pub(crate) fn one_sided_is_cheaper(capture: &Capture, rows_contracted: bool) -> bool {
    let t = capture.positions();
    if t == 1 {
        return true;
    }
    let (rows, cols) = (capture.block.rows, capture.block.cols);
    let (k, c) = if rows_contracted { (cols, rows) } else { (rows, cols) };
    // The terms of several positions may cancel: f64 has digits to spare for those of f32.
    let dtype = capture.delta.dtype();
    let widens = dtype != DType::F64 && precise_type(&capture.delta.device(), dtype) == DType::F64;
    widens && t * t * (c + k) + t * k * k < t * c * k + c * k * k
}

/// `Σ gᵀg = Σ δᵀ (a aᵀ) δ`, `[cols, cols]`, or `Σ g gᵀ = Σ aᵀ (δ δᵀ) a`, `[rows, rows]`, in f64 where the device has it.
pub(crate) fn one_sided(capture: &Capture, rows_contracted: bool) -> Tensor<2> {
    let t = capture.positions();
    let (rows, cols) = (capture.block.rows, capture.block.cols);
    let sums = capture.runs(t * (rows + cols + t)).map(|run| {
        let n = run.samples();
        let (kept, other) = if rows_contracted { (run.delta, run.input) } else { (run.input, run.delta) };
        let (kept, other) = (precise(kept), precise(other));
        let side = kept.dims()[2];
        if t == 1 {
            return outer((kept * norms(other)).reshape([n, side]));
        }
        let products = other.clone().matmul(other.swap_dims(1, 2)).matmul(kept.clone()).reshape([n * t, side]);
        let sum = kept.reshape([n * t, side]).transpose().matmul(products);
        (sum.clone() + sum.transpose()).mul_scalar(0.5)
    });
    let like = capture.delta.clone().slice([0..0]);
    let side = if rows_contracted { cols } else { rows };
    sums.reduce(|a, b| a + b).unwrap_or_else(|| precise(Tensor::zeros([side, side], (&like.device(), like.dtype()))))
}

/// The norm of each row, `[n, 1, 1]`: of rows over their largest entry, whose squares are in every type's range.
fn norms(rows: Tensor<3>) -> Tensor<3> {
    let largest = rows.clone().abs().max_dim(2);
    let divisor = largest.clone().mask_fill(largest.clone().equal_elem(0.0), 1.0);
    (rows / divisor).square().sum_dim(2).sqrt() * largest
}

/// `Σ g²`, `[rows·cols]`, of captures with one position: one product of matrices for all samples.
pub(crate) fn diagonal(capture: &Capture) -> Tensor<1> {
    let ([n, _, rows], [_, _, cols]) = (capture.input.dims(), capture.delta.dims());
    let squares = |side: Tensor<3>, width| precise(side).square().reshape([n, width]);
    squares(capture.input.clone(), rows).transpose().matmul(squares(capture.delta.clone(), cols)).flatten(0, 1)
}
