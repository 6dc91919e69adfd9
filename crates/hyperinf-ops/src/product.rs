//! Matrix products by faer: faster than the backend's, and they can start from the bias.

use burn::backend::flex::FlexTensor;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::extension::{contiguous, tensor};
use crate::memory::{repeated, zeros};

/// Up to so many multiplications a part is not split.
const WHOLE: usize = 1 << 21;
/// The parts of a large product for each thread, about: few, since each packs its factors, and more than one, since
/// cores are not equally fast.
const PARTS: usize = 4;
/// Fewer rows or columns than this are not split.
const SIDE: usize = 64;
/// Columns of a part are a multiple of this, if there are twice as many: the columns that faer's kernels compute at once.
const COLUMNS: usize = 96;

/// `x W + b`: `[m, k]`, `[k, n]` and `[n]` to `[m, n]`.
///
/// # Panics
///
/// If the shapes do not fit.
pub(super) fn product(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
    let (x, weight) = (plain(x), plain(weight));
    let (left, right) = (matrix(&x), matrix(&weight));
    let (m, n) = (left.nrows(), right.ncols());
    let (mut out, accumulate) = match bias {
        Some(bias) => {
            let bias = contiguous(bias);
            let bias = bias.storage::<f32>();
            assert_eq!(bias.len(), n, "product: length of the bias");
            (repeated(bias, m), Accum::Add)
        }
        None => (zeros(m * n), Accum::Replace),
    };
    multiply(MatMut::from_row_major_slice_mut(&mut out, m, n), accumulate, left, right);
    tensor(out, [m, n])
}

/// A product in parts of rows and columns, each on one core: faster than parts that wait for each other at every
/// block of the sum, as faer's own do. No part splits a sum, so the number of threads changes no bit.
pub(super) fn multiply(out: MatMut<'_, f32>, accumulate: Accum, left: MatRef<'_, f32>, right: MatRef<'_, f32>) {
    let all = left.nrows().saturating_mul(left.ncols()).saturating_mul(right.ncols());
    in_parts(out, accumulate, left, right, (all / (PARTS * rayon::current_num_threads())).max(WHOLE));
}

fn in_parts(out: MatMut<'_, f32>, accumulate: Accum, left: MatRef<'_, f32>, right: MatRef<'_, f32>, most: usize) {
    let (m, k, n) = (left.nrows(), left.ncols(), right.ncols());
    if m.saturating_mul(k).saturating_mul(n) <= most || m.max(n) < SIDE {
        return matmul(out, accumulate, left, right, 1.0, Par::Seq);
    }
    // The multiple of the unit that is nearest to the middle.
    let middle = |size: usize, unit: usize| {
        let unit = if size < 2 * unit { SIDE / 2 } else { unit };
        (size / 2 + unit / 2) / unit * unit
    };
    if m >= n {
        let at = middle(m, SIDE);
        let ((out, rest), (left, below)) = (out.split_at_row_mut(at), left.split_at_row(at));
        let second = || in_parts(rest, accumulate, below, right, most);
        rayon::join(|| in_parts(out, accumulate, left, right, most), second);
    } else {
        let at = middle(n, COLUMNS);
        let ((out, rest), (right, beside)) = (out.split_at_col_mut(at), right.split_at_col(at));
        let second = || in_parts(rest, accumulate, left, beside, most);
        rayon::join(|| in_parts(out, accumulate, left, right, most), second);
    }
}

/// The tensor as a contiguous matrix, row-major or column-major; copied only if it is neither.
fn plain(x: FlexTensor) -> FlexTensor {
    let layout = x.layout();
    let (rows, columns) = (layout.shape()[0], layout.shape()[1]);
    let whole = layout.start_offset() == 0 && x.storage::<f32>().len() == rows * columns;
    let by_columns = *layout.strides() == [1, rows as isize];
    if whole && by_columns { x } else { contiguous(x) }
}

fn matrix(x: &FlexTensor) -> MatRef<'_, f32> {
    let layout = x.layout();
    let (rows, columns) = (layout.shape()[0], layout.shape()[1]);
    if layout.is_contiguous() {
        MatRef::from_row_major_slice(x.storage(), rows, columns)
    } else {
        MatRef::from_column_major_slice(x.storage(), rows, columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, whose sums are exact, in parts as small as they get.
    #[test]
    fn parts_are_the_whole_product() {
        for [m, k, n] in [[259, 7, 131], [131, 7, 259], [64, 3, 1], [1, 3, 65], [300, 0, 70], [70, 5, 0]] {
            let numbers = |count: usize, of: usize| (0..count).map(|i| (i * 7 % of) as f32 - 2.0).collect::<Vec<_>>();
            let (x, weight, start) = (numbers(m * k, 5), numbers(k * n, 11), numbers(m * n, 3));
            let turned: Vec<f32> = (0..k * n).map(|place| weight[place % k * n + place / k]).collect();
            let left = MatRef::from_row_major_slice(&x, m, k);
            let rights = [MatRef::from_row_major_slice(&weight, k, n), MatRef::from_column_major_slice(&turned, k, n)];
            for (right, accumulate) in
                rights.into_iter().flat_map(|right| [(right, Accum::Add), (right, Accum::Replace)])
            {
                let mut out = start.clone();
                in_parts(MatMut::from_row_major_slice_mut(&mut out, m, n), accumulate, left, right, 1);
                for (place, found) in out.iter().enumerate() {
                    let (row, column) = (place / n, place % n);
                    let sum: f32 = (0..k).map(|i| x[row * k + i] * weight[i * n + column]).sum();
                    let expected = if accumulate == Accum::Add { start[place] + sum } else { sum };
                    assert_eq!(*found, expected, "[{m}, {k}, {n}], {accumulate:?} at {row}, {column}");
                }
            }
        }
    }

    /// The parts are others, the bits are not.
    #[test]
    fn threads_change_no_bit() {
        let [m, k, n] = [300, 700, 410];
        let numbers = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let (x, weight) = (numbers(m * k, 0.37), numbers(k * n, 0.73));
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let mut out = vec![0.0; m * n];
            let (left, right) = (MatRef::from_row_major_slice(&x, m, k), MatRef::from_row_major_slice(&weight, k, n));
            pool.install(|| {
                multiply(MatMut::from_row_major_slice_mut(&mut out, m, n), Accum::Replace, left, right);
            });
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = with(1);
        for threads in [2, 3, 7, 16] {
            assert!(with(threads) == one, "{threads} threads");
        }
    }
}
