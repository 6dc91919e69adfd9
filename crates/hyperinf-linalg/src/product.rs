use std::ops::Range;

use burn::tensor::{DType, Tensor, s};
use rayon::prelude::*;

use crate::{has_own_memory, host_gram, precise, precise_type};

/// Diagonal blocks up to this size are multiplied whole; larger ones are split to save work by symmetry.
const PANEL: usize = 256;
/// Numbers in a chunk of rows that is used twice: 512 KiB of f32, half of a core's second cache.
const CHUNK: usize = 1 << 17;
/// Up to this number of vectors gain from chunks.
const CHUNKED: usize = 4;
/// Products of up to this number of vectors are limited by the memory that they read.
const FEW: usize = 16;
/// Batches into which such products are cut, so that every core has one.
const PARTS: usize = 8;
/// Columns that are widened to f64 at once.
const COLUMNS: usize = 8192;
/// Numbers of rows that are widened to f64 at once: 32 MiB.
const WIDENED: usize = 1 << 22;

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
    let ([q, d], [n, _]) = (x.dims(), rows.dims());
    if q > FEW || n < 2 * PARTS {
        // The large operand on the left: CPU backends repack the right one, which would cost a copy of J.
        return rows.matmul(x.transpose()).transpose();
    }
    // Few vectors read J at the memory's speed, if all cores read: one product is taken on one core, a batch on all.
    let whole = n - n % PARTS;
    let batch = rows.clone().slice([0..whole]).reshape([PARTS, whole / PARTS, d]);
    let products = batch.matmul(x.clone().reshape([1, q, d]).swap_dims(1, 2)).reshape([whole, q]).transpose();
    if whole == n {
        return products;
    }
    Tensor::cat(vec![products, rows.slice([whole..n]).matmul(x.transpose()).transpose()], 1)
}

/// `C J`, `[q, D]`: for each row of `C` `[q, n]` the weighted sum of the rows of `J` `[n, D]`.
pub fn combine(weights: Tensor<2>, rows: Tensor<2>) -> Tensor<2> {
    let ([q, n], [_, d]) = (weights.dims(), rows.dims());
    if q > 1 || n < 2 * PARTS {
        return weights.matmul(rows);
    }
    // As in `dots`: parts of the sum on all cores.
    let whole = n - n % PARTS;
    let left = weights.clone().slice(s![.., 0..whole]).reshape([PARTS, 1, whole / PARTS]);
    let batch = rows.clone().slice([0..whole]).reshape([PARTS, whole / PARTS, d]);
    let sum = left.matmul(batch).sum_dim(0).reshape([1, d]);
    if whole == n { sum } else { sum + weights.slice(s![.., whole..n]).matmul(rows.slice([whole..n])) }
}

/// `w(X Jᵀ) J`, `[q, D]`, together with `X Jᵀ`, `[q, n]`: for few rows `X` in one pass over the memory of `J` `[n, D]`.
///
/// `weigh` turns the products with a chunk of rows, `[q, m]`, into weights; it also gets the chunk, `[m, D]`.
pub fn normal_product(
    x: Tensor<2>,
    rows: Tensor<2>,
    weigh: impl Fn(Tensor<2>, &Tensor<2>) -> Tensor<2> + Sync,
) -> (Tensor<2>, Tensor<2>) {
    let ([q, _], [n, d]) = (x.dims(), rows.dims());
    let step = (CHUNK / d.max(1)).max(1);
    if q > CHUNKED || n <= step || has_own_memory(&rows.device()) {
        let products = dots(x, rows.clone());
        return (combine(weigh(products.clone(), &rows), rows), products);
    }
    // On a processor each core takes chunks that stay in its own cache between the two products.
    let chunk = |start: usize| {
        let chunk = rows.clone().slice([start..(start + step).min(n)]);
        let products = chunk.clone().matmul(x.clone().transpose()).transpose();
        (weigh(products.clone(), &chunk).matmul(chunk), products)
    };
    let starts: Vec<usize> = (0..n).step_by(step).collect();
    let (sums, products): (Vec<_>, Vec<_>) = starts.into_par_iter().map(chunk).unzip();
    (sums.into_iter().reduce(|a, b| a + b).expect("n > step > 0"), Tensor::cat(products, 1))
}

/// [`gram`] in f64 where the device has it, `[n, n]`: columns are widened a chunk at a time, never all of `J`.
pub fn gram_precise(rows: Tensor<2>) -> Tensor<2> {
    let [n, d] = rows.dims();
    if n == 0 || d == 0 {
        return nothing(&rows, n);
    }
    if let Some(found) = host_gram::gram(&rows) {
        return found;
    }
    let parts = column_chunks(&rows).map(|chunk| gram(precise(chunk)));
    parts.reduce(|a, b| a + b).unwrap_or_else(|| precise(gram(rows.clone())))
}

/// [`outer`] in f64 where the device has it, `[D, D]`: rows are widened a run at a time, never all of `J`.
///
/// A product of two f32 numbers is exact in f64, so the sum is off by f64's rounding only. It takes about twice the time
/// of [`outer`] in f32.
pub fn outer_precise(rows: Tensor<2>) -> Tensor<2> {
    let [n, d] = rows.dims();
    if n == 0 || d == 0 {
        return nothing(&rows, d);
    }
    if let Some(found) = host_gram::outer(&rows) {
        return found;
    }
    let sum = widened(rows.clone()).map(outer).reduce(|a, b| a + b);
    sum.unwrap_or_else(|| precise(outer(rows)))
}

/// The sum of no products, which a backend may not know.
fn nothing(rows: &Tensor<2>, side: usize) -> Tensor<2> {
    let device = rows.device();
    Tensor::zeros([side, side], (&device, precise_type(&device, rows.dtype())))
}

/// The rows in f64 where the device has it, a run of rows at a time; all at once if nothing is to be widened.
pub fn widened(rows: Tensor<2>) -> impl Iterator<Item = Tensor<2>> {
    let [n, d] = rows.dims();
    let whole = precise_type(&rows.device(), rows.dtype()) == rows.dtype();
    let step = if whole { n.max(1) } else { (WIDENED / d.max(1)).max(1) };
    (0..n).step_by(step).map(move |start| {
        let run =
            if start == 0 && n <= step { rows.clone() } else { rows.clone().slice([start..(start + step).min(n)]) };
        precise(run)
    })
}

/// [`dots`] in f64 where the device has it, a chunk of columns at a time.
pub fn dots_precise(x: Tensor<2>, rows: Tensor<2>) -> Tensor<2> {
    if let Some(step) = chunked(&rows, x.dims()[0]) {
        let (n, x) = (rows.dims()[0], precise(x).transpose());
        let products = chunks(n, step).map(|chunk| precise(rows.clone().slice([chunk])).matmul(x.clone()).transpose());
        return Tensor::cat(products.collect(), 1);
    }
    let parts = column_chunks(&x).zip(column_chunks(&rows)).map(|(x, rows)| dots(precise(x), precise(rows)));
    parts.reduce(|a, b| a + b).unwrap_or_else(|| precise(dots(x.clone(), rows.clone())))
}

/// [`combine`] in f64 where the device has it, a chunk of columns at a time.
pub fn combine_precise(weights: Tensor<2>, rows: Tensor<2>) -> Tensor<2> {
    let weights = precise(weights);
    if let Some(step) = chunked(&rows, weights.dims()[0]) {
        let sum = |chunk: Range<usize>| {
            weights.clone().slice(s![.., chunk.clone()]).matmul(precise(rows.clone().slice([chunk])))
        };
        let sums: Vec<Tensor<2>> = chunks(rows.dims()[0], step).map(sum).collect();
        return sums.into_iter().reduce(|a, b| a + b).expect("there are rows");
    }
    Tensor::cat(column_chunks(&rows).map(|chunk| combine(weights.clone(), precise(chunk))).collect(), 1)
}

/// Rows of a chunk, if `q` vectors are best multiplied with one chunk of rows after the other on each core, widened in
/// its cache.
fn chunked(rows: &Tensor<2>, q: usize) -> Option<usize> {
    let ([n, d], device, dtype) = (rows.dims(), rows.device(), rows.dtype());
    let step = (CHUNK / 2 / d.max(1)).max(1);
    let widens = dtype != DType::F64 && precise_type(&device, dtype) == DType::F64;
    (widens && q <= CHUNKED && n > step && !has_own_memory(&device)).then_some(step)
}

/// `0..n` in runs of `step`.
fn chunks(n: usize, step: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    (0..n.div_ceil(step)).into_par_iter().map(move |chunk| chunk * step..((chunk + 1) * step).min(n))
}

/// The diagonal of a square matrix, `[1, k]` for `[k, k]`.
pub fn diagonal(matrix: Tensor<2>) -> Tensor<2> {
    let eye = Tensor::<2>::eye(matrix.dims()[0], &matrix.device()).cast(matrix.dtype());
    (eye * matrix).sum_dim(0)
}

/// `[n, D]` in runs of at most `COLUMNS` columns.
fn column_chunks(rows: &Tensor<2>) -> impl Iterator<Item = Tensor<2>> {
    let [_, d] = rows.dims();
    (0..d).step_by(COLUMNS).map(move |start| rows.clone().slice(s![.., start..(start + COLUMNS).min(d)]))
}
