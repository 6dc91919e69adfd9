//! The structures: one file each.

mod captured;
mod dense;
mod diagonal;
mod eigenpairs;
mod isotropic;
mod kronecker;
mod one_sided;
mod rows;
mod samples;

use burn::tensor::{DType, Tensor};
use hyperinf_linalg::ReadError;

use crate::{Curvature, Structure};

pub use captured::{Captured, SamplePart};
pub use dense::Dense;
pub use diagonal::Diagonal;
pub use eigenpairs::Eigenpairs;
pub use isotropic::Isotropic;
pub use kronecker::Kronecker;
pub use one_sided::OneSided;
pub use rows::SampleRows;
pub use samples::Samples;

/// A symmetric positive semi-definite `[D, D]` matrix in some structure, as every variant of [`Curvature`].
///
/// [`Curvature`] has the same methods, with their contracts.
pub trait Structured {
    /// Its structure.
    fn structure(&self) -> Structure;

    /// `D`.
    fn parameters(&self) -> usize;

    /// `V H`, `[q, D]` for rows `V` `[q, D]`.
    fn apply(&self, v: Tensor<2>) -> Tensor<2>;

    /// The diagonal of `H`, `[1, D]`.
    fn diagonal(&self) -> Tensor<2>;

    /// The trace of `H`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn trace(&self) -> Result<f64, ReadError>;

    /// `H` written out, `[D, D]`.
    fn to_dense(&self) -> Tensor<2>;

    /// What an inverse is computed from.
    fn core(&self) -> Core<'_>;

    /// The same structure around another core.
    fn with_core(&self, core: Tensor<2>) -> Curvature;

    /// The same matrix in another type.
    fn cast(&self, dtype: DType) -> Curvature;
}

/// The form of a curvature that an inverse or another function is computed from.
///
/// A structure whose core is one of these is inverted by every solver that knows this form.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "made for one match and dropped")]
pub enum Core<'a> {
    /// `H` applies one matrix to slices of each row: `[q, D]` is seen as `[q, rows, cols]`, and `matrix` acts on the
    /// columns of each slice, or on its rows.
    Matrix {
        /// `[cols, cols]`, or `[rows, rows]` if it acts on rows.
        matrix: &'a Tensor<2>,
        /// The rows of a slice; 1 for a matrix `[D, D]`.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// Whether the matrix acts on rows: `H = matrix ⊗ I` instead of `I ⊗ matrix`.
        on_rows: bool,
    },
    /// `H = RᵀR/m` for samples `R`, `[m, D]`.
    Samples(SampleRows),
    /// Eigenvalues whose eigenvectors are known.
    Eigenvalues {
        /// In the order and shape that [`Curvature::with_core`] takes.
        values: Tensor<2>,
        /// Whether the eigenvectors span the whole space; if not, `H` is zero on the complement.
        complete: bool,
    },
}
