use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{ReadError, diagonal, host};

use crate::{Core, Curvature, Structure, Structured};

/// `H` itself.
#[derive(Clone, Debug)]
pub struct Dense {
    /// `H`, symmetric, `[D, D]`.
    pub matrix: Tensor<2>,
}

impl Structured for Dense {
    fn structure(&self) -> Structure {
        Structure::Dense
    }

    fn parameters(&self) -> usize {
        self.matrix.dims()[0]
    }

    fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        v.matmul(self.matrix.clone())
    }

    fn diagonal(&self) -> Tensor<2> {
        diagonal(self.matrix.clone())
    }

    fn trace(&self) -> Result<f64, ReadError> {
        Ok(host(self.diagonal())?.iter().sum())
    }

    fn to_dense(&self) -> Tensor<2> {
        self.matrix.clone()
    }

    fn core(&self) -> Core<'_> {
        Core::Matrix { matrix: &self.matrix, rows: 1, cols: self.parameters(), on_rows: false }
    }

    fn with_core(&self, core: Tensor<2>) -> Curvature {
        Curvature::Dense(Self { matrix: core })
    }

    fn cast(&self, dtype: DType) -> Curvature {
        self.with_core(self.matrix.clone().cast(dtype))
    }
}
