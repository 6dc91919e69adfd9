//! Gram matrices in f64 of rows in f32, on a processor: half of each product, accumulated in place.

use burn::tensor::{DType, Tensor, s};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use crate::{has_own_memory, precise_type, tensor_from_host};

/// Numbers that are widened to f64 at once: 16 MiB, which stays in memory that is used again.
const WIDENED: usize = 1 << 21;
/// Numbers that one thread widens at a time.
const PART: usize = 1 << 15;
/// The fewest rows or columns of a piece of a product.
const LEAST: usize = 256;
/// Columns that one thread turns into rows at a time.
const TURNED: usize = 64;
/// The rows that are turned at a time: what is read and what is written stays in a core's first cache.
const TILE: usize = 32;
/// The least and the most side of a square of the sum.
const SQUARES: [usize; 2] = [48, 192];
/// The numbers of a cache line.
const LINE: usize = 8;
/// Below this side a product is so small that the ways do not differ.
const SIDE: usize = 64;

/// Whether `side × side` sums of `rows` are taken here.
fn is_taken(rows: &Tensor<2>, side: usize) -> bool {
    let (device, dtype) = (rows.device(), rows.dtype());
    dtype == DType::F32 && side >= SIDE && precise_type(&device, dtype) == DType::F64 && !has_own_memory(&device)
}

/// `J Jᵀ` in f64, `[n, n]` for `[n, D]` in f32 on a processor with f64; `None` for others, and for few rows.
///
/// A product of two f32 numbers is exact in f64. Columns are widened some at a time, and only the lower triangle is
/// multiplied.
pub(crate) fn gram(rows: &Tensor<2>) -> Option<Tensor<2>> {
    let [n, d] = rows.dims();
    if !is_taken(rows, n) {
        return None;
    }
    let columns = piece(n).min(d);
    let (mut sum, mut wide) = (Sum::zeros(n), vec![0.0; n * columns]);
    for start in (0..d).step_by(columns.max(1)) {
        let width = columns.min(d - start);
        let wide = &mut wide[..n * width];
        widen(rows, 0, start..start + width, wide);
        sum.add(MatRef::from_row_major_slice(wide, n, width));
    }
    Some(sum.whole(rows))
}

/// `JᵀJ` in f64, `[D, D]`, as [`gram`]; rows are widened some at a time, and turned into columns: a product reads along
/// its sums, and leaps of 8 kB from one term to the next halve its speed.
pub(crate) fn outer(rows: &Tensor<2>) -> Option<Tensor<2>> {
    let [n, d] = rows.dims();
    if !is_taken(rows, d) {
        return None;
    }
    let step = piece(d).min(n);
    let (mut sum, mut wide) = (Sum::zeros(d), vec![0.0; step * d]);
    for start in (0..n).step_by(step.max(1)) {
        let height = step.min(n - start);
        let wide = &mut wide[..height * d];
        widen_turned(rows, start..start + height, wide);
        sum.add(MatRef::from_row_major_slice(wide, d, height));
    }
    Some(sum.whole(rows))
}

/// The terms of a piece of the sums, for `side` of them: an odd number of cache lines, so that rows below each other do
/// not fall on the same places of the cache.
fn piece(side: usize) -> usize {
    (WIDENED / side).max(LEAST) / 16 * 16 + 8
}

/// Widens these rows, column after column: `wide` is `[D, rows]`.
fn widen_turned(rows: &Tensor<2>, run: std::ops::Range<usize>, wide: &mut [f64]) {
    let height = run.len();
    wide.par_chunks_mut(TURNED * height).enumerate().for_each(|(part, wide)| {
        let (first, width) = (part * TURNED, wide.len() / height);
        let data = rows.clone().slice(s![run.clone(), first..first + width]).into_data();
        let values = data.as_slice::<f32>().expect("rows are in f32");
        for tile in (0..height).step_by(TILE) {
            let end = (tile + TILE).min(height);
            for (column, wide) in wide.chunks_exact_mut(height).enumerate() {
                for (row, wide) in (tile..end).zip(&mut wide[tile..end]) {
                    *wide = f64::from(values[row * width + column]);
                }
            }
        }
    });
}

/// Widens the rows from `first` on, in these columns, until `wide` is full.
fn widen(rows: &Tensor<2>, first: usize, columns: std::ops::Range<usize>, wide: &mut [f64]) {
    let width = columns.len();
    let height = (PART / width).max(1);
    wide.par_chunks_mut(height * width).enumerate().for_each(|(part, wide)| {
        let first = first + part * height;
        let run = first..first + wide.len() / width;
        let data = rows.clone().slice(s![run, columns.clone()]).into_data();
        let values = data.as_slice::<f32>().expect("rows are in f32");
        wide.iter_mut().zip(values).for_each(|(wide, value)| *wide = f64::from(*value));
    });
}

/// The lower triangle of a symmetric matrix in squares, each of which is summed on one core: no bit depends on how many
/// there are.
struct Sum {
    side: usize,
    /// The first row and column of each.
    squares: Vec<([usize; 2], Mat<f64>)>,
}

impl Sum {
    fn zeros(side: usize) -> Self {
        let [least, most] = SQUARES;
        // Large ones are faster, and there should be some for each core.
        let square = (side / 4).next_multiple_of(least).clamp(least, most);
        let starts = || (0..side).step_by(square);
        // The last rows first, so that the small squares at the diagonal fill what is left.
        let places =
            starts().rev().flat_map(|row| starts().take_while(move |&column| column <= row).map(move |c| [row, c]));
        let length = |first: usize| square.min(side - first);
        let zeros = |[row, column]: [usize; 2]| ([row, column], Mat::zeros(length(row), length(column)));
        Self { side, squares: places.map(zeros).collect() }
    }

    /// Adds `side · sideᵀ`.
    fn add(&mut self, side: MatRef<'_, f64>) {
        let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
        self.squares.par_iter_mut().for_each(|([row, column], sum)| {
            let (left, right) = (side.subrows(*row, sum.nrows()), side.subrows(*column, sum.ncols()).transpose());
            if row == column {
                triangular::matmul(sum, lower, Accum::Add, left, whole, right, whole, 1.0, Par::Seq);
            } else {
                matmul(sum, Accum::Add, left, right, 1.0, Par::Seq);
            }
        });
    }

    /// The whole matrix, on the device of the rows.
    fn whole(&self, rows: &Tensor<2>) -> Tensor<2> {
        let n = self.side;
        let mut values = vec![0.0; n * n];
        for ([row, column], sum) in &self.squares {
            for (j, sums) in sum.col_iter().enumerate() {
                // Above the diagonal a square has zeros.
                let first = if row == column { j } else { 0 };
                for (i, value) in sums.iter().enumerate().skip(first) {
                    values[(column + j) * n + row + i] = *value;
                }
            }
            // Some columns at a time, so that cache lines are written whole.
            for start in (0..sum.ncols()).step_by(LINE) {
                let columns = start..sum.ncols().min(start + LINE);
                for i in 0..sum.nrows() {
                    for j in columns.clone().filter(|j| row != column || *j <= i) {
                        values[(row + i) * n + column + j] = sum[(i, j)];
                    }
                }
            }
        }
        tensor_from_host(values, [n, n], &rows.device(), DType::F64)
    }
}
