//! Matrix products by faer: about 10 % faster than the backend's, and they can start from the bias.

use burn::backend::flex::FlexTensor;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::extension::{contiguous, tensor};
use crate::memory::zeros;

/// Below this many multiplications one thread does the work.
const PARALLEL: usize = 1 << 20;
/// Numbers of the output, about, that a task sets to the bias.
const PART: usize = 1 << 14;

/// `x W + b`: `[m, k]`, `[k, n]` and `[n]` to `[m, n]`.
///
/// # Panics
///
/// If the shapes do not fit.
pub(super) fn product(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
    let (x, weight) = (plain(x), plain(weight));
    let (left, right) = (matrix(&x), matrix(&weight));
    let (m, k, n) = (left.nrows(), left.ncols(), right.ncols());
    let (mut out, accumulate) = match bias {
        Some(bias) => {
            let bias = contiguous(bias);
            let bias = bias.storage::<f32>();
            assert_eq!(bias.len(), n, "product: length of the bias");
            let mut out = zeros(m * n);
            out.par_chunks_mut((PART.div_ceil(n.max(1)) * n).max(1)).for_each(|out| {
                out.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias));
            });
            (out, Accum::Add)
        }
        None => (zeros(m * n), Accum::Replace),
    };
    let par = if m.saturating_mul(k).saturating_mul(n) < PARALLEL { Par::Seq } else { Par::rayon(0) };
    matmul(MatMut::from_row_major_slice_mut(&mut out, m, n), accumulate, left, right, 1.0, par);
    tensor(out, [m, n])
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
