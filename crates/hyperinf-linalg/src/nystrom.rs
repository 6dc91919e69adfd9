use burn::tensor::{DType, Device, Tensor};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, MatMut, MatRef, Side};

use crate::parts;
use crate::{MatrixError, ReadError, host, seeded_normals, tensor_from_host};

/// Orthonormal rows `Ω` that span a random subspace, `[l, D]`, in f64 on the host: what the randomised Nyström
/// approximation of a matrix is made from.
#[derive(Clone)]
pub struct RandomRows {
    /// `Ωᵀ`, `[D, l]`: faer stores columns.
    columns: Mat<f64>,
}

/// The eigenpairs of a Nyström approximation, largest first, in f64 on the host.
pub struct NystromPairs {
    /// The eigenvalues, not negative, `[k]`.
    pub values: Vec<f64>,
    /// The eigenvectors, orthonormal rows, `[k, D]` row by row.
    pub vectors: Vec<f64>,
}

impl RandomRows {
    /// `l` of them, at most `D`: more of the same seed span a space that holds the span of fewer.
    ///
    /// Normal numbers, made orthonormal by a QR decomposition: `4 D l²` flop.
    ///
    /// # Panics
    ///
    /// If `l` is above `D`.
    pub fn draw([l, d]: [usize; 2], seed: u64) -> Self {
        assert!(l <= d, "{l} orthonormal rows of length {d}");
        // Rows of [l, D] are the columns of faer's [D, l].
        let normal = seeded_normals(l * d, seed);
        Self { columns: parts::orthonormal_columns(MatRef::from_column_major_slice(&normal, d, l)) }
    }

    /// These rows, rounded to another type: for products that are computed in that type.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn rounded(self, device: &Device, dtype: DType) -> Result<Self, ReadError> {
        let (l, d) = (self.columns.ncols(), self.columns.nrows());
        let rows = host(self.tensor(device, dtype))?;
        Ok(Self { columns: MatRef::from_column_major_slice(&rows, d, l).to_owned() })
    }

    /// `Ω` on a device, `[l, D]`.
    pub fn tensor(&self, device: &Device, dtype: DType) -> Tensor<2> {
        let (l, d) = (self.columns.ncols(), self.columns.nrows());
        tensor_from_host(columns(&self.columns), [l, d], device, dtype)
    }

    /// The `rank` leading eigenpairs of the Nyström approximation of a symmetric positive semi-definite `H` `[D, D]`,
    /// from `product = Ω H`, `[l, D]` row by row (Tropp et al. 2017, algorithm 3; Frangella, Tropp and Udell 2023,
    /// algorithm 2.1).
    ///
    /// With `Y = Ω (H + νI)`:
    ///
    /// ```text
    /// H + νI ≈ Yᵀ (Y Ωᵀ)⁻¹ Y = Bᵀ B,   B = C⁻ᵀ Y with CᵀC = Y Ωᵀ,   B = W Σ Uᵀ,   Λ = max(0, Σ² − νI)
    /// ```
    ///
    /// `shifts` are the first and the largest `ν / ||ΩH||_F` tried, each ten times the one before, until the Cholesky
    /// factor `C` exists. The approximation is never above `H`; it is `H` if `l` is at least the rank of `H`. About
    /// `8 D l²` flop.
    ///
    /// # Errors
    ///
    /// If the product is not finite, no shift makes the small matrix positive definite, or the decomposition does not
    /// converge.
    ///
    /// # Panics
    ///
    /// If the product has not `l · D` values, or `rank` is above `l`.
    pub fn nystrom(&self, product: &[f64], rank: usize, shifts: [f64; 2]) -> Result<NystromPairs, MatrixError> {
        let (l, d) = (self.columns.ncols(), self.columns.nrows());
        assert!(rank <= l, "{rank} eigenpairs from {l} random rows");
        let size = product.iter().map(|y| y * y).sum::<f64>().sqrt();
        if !size.is_finite() {
            return Err(MatrixError::NonFinite { size: l });
        }
        let leading = |matrix: &Mat<f64>| {
            let mut rows = columns(matrix);
            rows.truncate(rank * d);
            rows
        };
        if size == 0.0 {
            return Ok(NystromPairs { values: vec![0.0; rank], vectors: leading(&self.columns) });
        }
        let mut shift = shifts[0] * size;
        let factor = loop {
            let shifted = MatRef::from_column_major_slice(product, d, l) + faer::Scale(shift) * &self.columns;
            let core = self.columns.transpose() * &shifted;
            let core = faer::Scale(0.5) * (&core + core.transpose());
            if let Ok(cholesky) = core.llt(Side::Lower) {
                let mut rows = columns(&shifted);
                let side = MatMut::from_row_major_slice_mut(&mut rows, l, d);
                solve_lower_triangular_in_place(cholesky.L(), side, faer::get_global_parallelism());
                break rows;
            }
            shift *= 10.0;
            if shift > shifts[1] * size {
                return Err(MatrixError::NotPositiveDefinite { size: l, shift });
            }
        };
        let matrix = MatRef::from_column_major_slice(&factor, d, l);
        let (values, vectors) = parts::left_singular(matrix).ok_or(MatrixError::NotConverged { size: l })?;
        let squares = values.into_iter().map(|sigma| (sigma * sigma - shift).max(0.0));
        Ok(NystromPairs { values: squares.take(rank).collect(), vectors: leading(&vectors) })
    }
}

/// The columns of a matrix, one after the other.
fn columns(matrix: &Mat<f64>) -> Vec<f64> {
    (0..matrix.ncols()).flat_map(|j| matrix.col_as_slice(j).iter().copied()).collect()
}
