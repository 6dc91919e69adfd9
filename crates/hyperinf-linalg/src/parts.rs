//! Decompositions by faer whose bits do not depend on the number of threads.
//!
//! By default faer splits some sums, such as those of a matrix times one vector, into as many parts as there are threads.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::cholesky::llt::solve::solve_in_place;
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Accum, Conj, Mat, MatMut, MatRef, Par, get_global_parallelism};

/// The side of the product of [`reserve_for_products`].
const SIDE: usize = 64;

/// The parts of a decomposition, whatever the number of threads.
fn parts() -> Par {
    Par::rayon(4)
}

/// How products with so many columns are shared: those with several are not split along their sums.
fn of_columns(columns: usize) -> Par {
    if columns == 1 { Par::Seq } else { get_global_parallelism() }
}

/// The eigenvalues, ascending, and the eigenvectors in columns, from the lower triangle; `None` without convergence.
pub(crate) fn eigen(matrix: MatRef<'_, f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let size = matrix.nrows();
    let (mut values, mut vectors) = (Diag::zeros(size), Mat::zeros(size, size));
    let scratch = self_adjoint_evd_scratch::<f64>(size, ComputeEigenvectors::Yes, parts(), Default::default());
    let (mut memory, params) = (MemBuffer::new(scratch), Default::default());
    let stack = MemStack::new(&mut memory);
    self_adjoint_evd(matrix, values.as_mut(), Some(vectors.as_mut()), parts(), stack, params).ok()?;
    Some((values.column_vector().iter().copied().collect(), vectors))
}

/// The singular values, largest first, and the left singular vectors in columns of a matrix that is no wider than high;
/// `None` without convergence.
pub(crate) fn left_singular(matrix: MatRef<'_, f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let (rows, columns) = matrix.shape();
    let (mut values, mut vectors) = (Diag::zeros(columns), Mat::zeros(rows, columns));
    let (left, right) = (ComputeSvdVectors::Thin, ComputeSvdVectors::No);
    let scratch = svd_scratch::<f64>(rows, columns, left, right, parts(), Default::default());
    let (mut memory, params) = (MemBuffer::new(scratch), Default::default());
    let stack = MemStack::new(&mut memory);
    svd(matrix, values.as_mut(), Some(vectors.as_mut()), None, parts(), stack, params).ok()?;
    Some((values.column_vector().iter().copied().collect(), vectors))
}

/// Orthonormal columns that span those of a matrix that is no wider than high.
pub(crate) fn orthonormal_columns(matrix: MatRef<'_, f64>) -> Mat<f64> {
    let (rows, columns) = matrix.shape();
    let size = recommended_block_size::<f64>(rows, columns);
    let (mut basis, mut factors) = (matrix.to_owned(), Mat::zeros(size, columns));
    let scratch = qr_in_place_scratch::<f64>(rows, columns, size, parts(), Default::default());
    let (mut memory, params) = (MemBuffer::new(scratch), Default::default());
    qr_in_place(basis.as_mut(), factors.as_mut(), parts(), MemStack::new(&mut memory), params);
    // The reflections' vectors lie below the diagonal, which is 1; above it is the other factor.
    for column in 0..columns {
        basis.col_as_slice_mut(column)[..column].fill(0.0);
        basis[(column, column)] = 1.0;
    }
    let mut found = Mat::identity(rows, columns);
    let mut memory = MemBuffer::new(apply_scratch::<f64>(rows, size, columns));
    let stack = MemStack::new(&mut memory);
    apply(basis.as_ref(), factors.as_ref(), Conj::No, found.as_mut(), parts(), stack);
    found
}

/// Solves `L Lᵀ x = b` for each column of `b`, in place.
pub(crate) fn solve_cholesky(factor: MatRef<'_, f64>, columns: MatMut<'_, f64>) {
    let parallel = of_columns(columns.ncols());
    solve_in_place(factor, columns, parallel, MemStack::new(&mut MemBuffer::new(StackReq::EMPTY)));
}

/// `A B`.
pub(crate) fn times(left: MatRef<'_, f64>, right: MatRef<'_, f64>) -> Mat<f64> {
    let mut product = Mat::zeros(left.nrows(), right.ncols());
    matmul(product.as_mut(), Accum::Replace, left, right, 1.0, of_columns(right.ncols()));
    product
}

/// Lets every thread of rayon's pool, and this one, multiply once: each reserves address space for products, twice the
/// processor's last cache, when it first does. Memory that is free is known only after that.
pub fn reserve_for_products() {
    // Small enough to be quick, and large enough not to be taken without that space.
    let product = || {
        let (ones, mut product) = (Mat::<f32>::full(SIDE, SIDE, 1.0), Mat::zeros(SIDE, SIDE));
        matmul(product.as_mut(), Accum::Replace, ones.as_ref(), ones.as_ref(), 1.0, Par::Seq);
    };
    product();
    rayon::broadcast(|_| product());
}
