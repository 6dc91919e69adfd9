use std::iter;

use burn::tensor::{DType, Device, Tensor};
use faer::{Mat, MatRef, Side};
use hyperinf_gradients::Block;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::eigen::Eigenpairs;
use crate::precision::{host, precise, tensor_from_host};
use crate::product::normal_product;
use crate::storage::test_rows;
use crate::{Curvature, CurvatureError};

/// The stability shift relative to `||Y||_F`, at least: the Gram matrix of `Y` squares its condition, so that in f64
/// nothing below `√ε` is resolved.
const SHIFT: f64 = 1e-7;
/// The same in units of the type's precision, which the sums in `Y` have.
const ROUNDINGS: f64 = 4.0;
/// How many shifts are tried, each ten times the one before.
const SHIFTS: usize = 4;

/// A random sketch of the sum of outer products: `Y = Ω Σ g gᵀ` for fixed orthonormal rows `Ω`, `[l, D]`.
pub(crate) struct Sketch {
    test: Tensor<2>,
    /// In f64 where the device has it: rounding would grow with the number of batches.
    sum: Tensor<2>,
    rank: usize,
}

impl Sketch {
    /// Draws `Ω` for gradients like these; `None` if its rows turn out dependent.
    pub(crate) fn new(rank: usize, seed: u64, like: &Tensor<2>) -> Option<Self> {
        let [_, d] = like.dims();
        let rank = rank.min(d);
        let test = orthonormal_rows(test_rows(rank, d), d, seed, &like.device(), like.dtype())?;
        Some(Self { sum: precise(test.zeros_like()), test, rank })
    }

    /// Adds the gradients `[n, D]`.
    pub(crate) fn add(&mut self, rows: Tensor<2>) {
        let product = normal_product(self.test.clone(), rows, |products, _| products).0;
        self.sum = self.sum.clone() + product.cast(self.sum.dtype());
    }

    /// The eigenpairs of the Nyström approximation `Yᵀ (Ω Yᵀ)⁻¹ Y` of `H`, `Y = Ω H` (Tropp et al. 2017, algorithm 3).
    ///
    /// `H + νI` is approximated and `ν` taken off its eigenvalues again, so that the Cholesky factor `L Lᵀ = Ω Yᵀ`
    /// exists; `ν` grows tenfold, up to [`SHIFTS`] values, while rounding keeps it from existing. The eigenpairs of `Eᵀ E`, `E = L⁻¹ Y`, come from those of the small `E Eᵀ = V Σ Vᵀ`: `q = Σ^-½ Vᵀ E`. All of
    /// it in f64.
    pub(crate) fn finish(self, block: &Block, samples: usize) -> Result<Curvature, CurvatureError> {
        let ([l, d], device, dtype) = (self.test.dims(), self.test.device(), self.test.dtype());
        let failed = || CurvatureError::Eigen { block: block.name.clone(), what: "the sketch", side: l };
        let test = host(self.test)?;
        let sum = host(self.sum.div_scalar(samples as f64))?;
        let norm = sum.iter().map(|y| y * y).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(failed());
        }
        if norm == 0.0 {
            let vectors = tensor_from_host(test[..self.rank * d].to_vec(), [self.rank, d], &device, dtype);
            return Ok(Curvature::Eigen { vectors, values: Tensor::zeros([self.rank], (&device, dtype)) });
        }
        let epsilon = dtype.finfo().map_or(f64::EPSILON, |info| info.epsilon);
        let least = SHIFT.max(ROUNDINGS * epsilon);
        let shifts = iter::successors(Some(least), |shift| Some(10.0 * shift)).take(SHIFTS);
        let mut tried = shifts.filter_map(|shift| shifted_eigen(&test, &sum, [l, d], self.rank, norm, shift));
        let (vectors, values) = tried.next().ok_or_else(failed)?;

        let vectors = tensor_from_host(columns(&vectors), [self.rank, d], &device, dtype);
        let values = tensor_from_host(values, [1, self.rank], &device, dtype).squeeze_dim(0);
        Ok(Curvature::Eigen { vectors, values })
    }
}

/// The leading eigenpairs of the Nyström approximation of `H + νI`, less `ν`: the vectors in columns, `[D, rank]`.
///
/// `Ω` and `Y` are `[l, D]`, `norm` is `||Y||_F` and `ν = shift · norm`; `None` if a Cholesky factor does not exist.
fn shifted_eigen(
    test: &[f64],
    sum: &[f64],
    [l, d]: [usize; 2],
    rank: usize,
    norm: f64,
    shift: f64,
) -> Option<(Mat<f64>, Vec<f64>)> {
    // In units of the norm nothing overflows inside.
    let shifted: Vec<f64> = sum.par_iter().zip(test).map(|(y, omega)| y / norm + shift * omega).collect();
    // Rows one after the other are columns one after the other of the transpose.
    let sketch = MatRef::from_column_major_slice(&shifted, d, l);
    let core = MatRef::from_column_major_slice(test, d, l).transpose() * sketch;
    let inverse = inverse_factor(&core)?;
    let small = &inverse * (sketch.transpose() * sketch) * inverse.transpose();
    let pairs = Eigenpairs::of_host(row_major(&symmetric(&small)), l)?;
    // All are ν or more but for the rounding of Y; the bound only keeps a division by zero away.
    let root = |k: usize| pairs.values[k].max(1e-3 * shift).sqrt();
    let scaled = Mat::from_fn(rank, l, |k, i| pairs.vectors[i * l + k] / root(k));
    let vectors = sketch * (scaled * inverse).transpose();
    // Orthonormal to `ε ||Y||/μ`, little where `μ` is near ν: once more, which changes the leading ones least.
    let again = inverse_factor(&(vectors.transpose() * &vectors))?;
    let values = pairs.values[..rank].iter().map(|mu| (mu - shift).max(0.0) * norm).collect();
    Some((vectors * again.transpose(), values))
}

/// `L⁻¹` for the Cholesky factor `L` of a symmetric matrix, if it has one.
fn inverse_factor(matrix: &Mat<f64>) -> Option<Mat<f64>> {
    let l = matrix.nrows();
    if (0..l * l).any(|i| !matrix[(i / l, i % l)].is_finite()) {
        return None;
    }
    let factor = symmetric(matrix).llt(Side::Lower).ok()?;
    let mut inverse = Mat::identity(l, l);
    factor.L().solve_lower_triangular_in_place(inverse.as_mut());
    Some(inverse)
}

fn symmetric(matrix: &Mat<f64>) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| 0.5 * (matrix[(i, j)] + matrix[(j, i)]))
}

fn row_major(matrix: &Mat<f64>) -> Vec<f64> {
    let cols = matrix.ncols();
    (0..matrix.nrows() * cols).map(|i| matrix[(i / cols, i % cols)]).collect()
}

/// The columns one after the other.
fn columns(matrix: &Mat<f64>) -> Vec<f64> {
    matrix.col_iter().flat_map(|column| column.iter().copied()).collect()
}

/// Orthonormal rows that span a random subspace of dimension `l ≤ d`, `[l, d]`: the same seed gives nested subspaces.
///
/// Normal numbers, made orthonormal by the Cholesky factor of their Gram matrix in f64.
fn orthonormal_rows(l: usize, d: usize, seed: u64, device: &Device, dtype: DType) -> Option<Tensor<2>> {
    let mut seeds = StdRng::seed_from_u64(seed);
    let seeds: Vec<u64> = (0..l).map(|_| seeds.random()).collect();
    let mut rows = vec![0.0; l * d];
    rows.par_chunks_mut(d.max(1)).zip(seeds).for_each(|(row, seed)| {
        let mut rng = StdRng::seed_from_u64(seed);
        for pair in row.chunks_mut(2) {
            // Box and Muller: two uniform numbers make two normal ones.
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
            pair.iter_mut().zip([radius * cos, radius * sin]).for_each(|(value, normal)| *value = normal);
        }
    });
    let normal = MatRef::from_column_major_slice(&rows, d, l);
    let inverse = inverse_factor(&(normal.transpose() * normal))?;
    Some(tensor_from_host(columns(&(normal * inverse.transpose())), [l, d], device, dtype))
}
