use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::cholesky::llt::solve::solve_in_place;
use faer::linalg::solvers::Llt;
use faer::{Mat, MatMut, MatRef, Par, Side};

use crate::TruthError;
use crate::checksum::fnv1a;

/// Samples with their targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The number of features, `d`; a constant feature gives an intercept.
    pub width: usize,
    /// Features, `[n, d]` row by row.
    pub features: Vec<f64>,
    /// Targets, `[n]`.
    pub targets: Vec<f64>,
}

impl Rows {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The features of a sample.
    ///
    /// # Panics
    ///
    /// If the index is out of range.
    pub fn row(&self, sample: usize) -> &[f64] {
        &self.features[sample * self.width..(sample + 1) * self.width]
    }

    /// `x_i · θ`.
    pub(super) fn output(&self, sample: usize, theta: &[f64]) -> f64 {
        dot(self.row(sample), theta)
    }

    /// A checksum of features and targets.
    pub(super) fn checksum(&self) -> u64 {
        fnv1a(self.features.iter().chain(&self.targets).map(|v| v.to_bits()))
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The Cholesky factor of `Σ_i w_i x_i x_iᵀ + penalty · I` over a subset of the samples.
pub(super) struct Hessian {
    factor: Llt<f64>,
}

impl Hessian {
    pub(super) fn new(
        rows: &Rows,
        subset: &[usize],
        weight: impl Fn(usize) -> f64,
        penalty: f64,
    ) -> Result<Self, TruthError> {
        let d = rows.width;
        let chosen: Vec<f64> = subset.iter().flat_map(|&i| rows.row(i)).copied().collect();
        let weighted: Vec<f64> =
            subset.iter().flat_map(|&i| rows.row(i).iter().map(move |x| (x, i))).map(|(x, i)| x * weight(i)).collect();
        // faer is column-major: samples are columns here.
        let view = |values| MatRef::from_column_major_slice(values, d, subset.len());
        let mut matrix: Mat<f64> = view(&weighted) * view(&chosen).transpose();
        for i in 0..d {
            matrix[(i, i)] += penalty;
        }
        let singular = || TruthError::NotPositiveDefinite { parameters: d, penalty };
        let factor = Llt::new(matrix.as_ref(), Side::Lower).map_err(|_| singular())?;
        // A pivot that is 0 in exact arithmetic may round to a small positive number.
        let largest = (0..d).map(|i| matrix[(i, i)]).fold(0.0, f64::max);
        let smallest = (0..d).map(|i| factor.L()[(i, i)].powi(2)).fold(f64::INFINITY, f64::min);
        if smallest > d as f64 * f64::EPSILON * largest { Ok(Self { factor }) } else { Err(singular()) }
    }

    /// `H⁻¹ b`.
    pub(super) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x = b.to_vec();
        let rows = x.len();
        let column = MatMut::from_column_major_slice_mut(&mut x, rows, 1);
        // In one part: the bits of several would depend on the number of threads.
        solve_in_place(self.factor.L(), column, Par::Seq, MemStack::new(&mut MemBuffer::new(StackReq::EMPTY)));
        x
    }
}
