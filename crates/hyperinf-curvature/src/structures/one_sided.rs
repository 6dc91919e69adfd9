use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{ReadError, diagonal, host, kronecker};

use crate::{Core, Curvature, Structure, Structured};

/// `H = I ⊗ factor` (rows contracted) or `factor ⊗ I` (columns contracted): the generalized Fisher information matrix
/// of HyperINF (Zhou et al. 2024, section 3).
#[derive(Clone, Debug)]
pub struct OneSided {
    /// `[cols, cols]` if the rows are contracted, else `[rows, rows]`.
    pub factor: Tensor<2>,
    /// The block's rows.
    pub rows: usize,
    /// The block's columns.
    pub cols: usize,
    /// Whether the rows are the contracted side.
    pub rows_contracted: bool,
}

impl Structured for OneSided {
    fn structure(&self) -> Structure {
        Structure::OneSided
    }

    fn parameters(&self) -> usize {
        self.rows * self.cols
    }

    fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        let ([q, d], rows, cols) = (v.dims(), self.rows, self.cols);
        if self.rows_contracted {
            v.reshape([q * rows, cols]).matmul(self.factor.clone()).reshape([q, d])
        } else {
            let v = v.reshape([q, rows, cols]).swap_dims(1, 2).reshape([q * cols, rows]);
            v.matmul(self.factor.clone()).reshape([q, cols, rows]).swap_dims(1, 2).reshape([q, d])
        }
    }

    fn diagonal(&self) -> Tensor<2> {
        let kept = diagonal(self.factor.clone());
        let kept = if self.rows_contracted { kept } else { kept.transpose() };
        kept.expand([self.rows, self.cols]).reshape([1, self.parameters()])
    }

    fn trace(&self) -> Result<f64, ReadError> {
        let repeats = if self.rows_contracted { self.rows } else { self.cols };
        let trace: f64 = host(diagonal(self.factor.clone()))?.iter().sum();
        Ok(trace * repeats as f64)
    }

    fn to_dense(&self) -> Tensor<2> {
        let factor = &self.factor;
        let eye = |k: usize| Tensor::<2>::eye(k, &factor.device()).cast(factor.dtype());
        if self.rows_contracted {
            kronecker(eye(self.rows), factor.clone())
        } else {
            kronecker(factor.clone(), eye(self.cols))
        }
    }

    fn core(&self) -> Core<'_> {
        Core::Matrix { matrix: &self.factor, rows: self.rows, cols: self.cols, on_rows: !self.rows_contracted }
    }

    fn with_core(&self, core: Tensor<2>) -> Curvature {
        Curvature::OneSided(Self { factor: core, ..*self })
    }

    fn cast(&self, dtype: DType) -> Curvature {
        self.with_core(self.factor.clone().cast(dtype))
    }
}
