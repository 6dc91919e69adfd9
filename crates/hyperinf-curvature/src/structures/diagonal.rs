use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{ReadError, host};

use crate::{Core, Curvature, Structure, Structured};

/// `H = diag(h)`.
#[derive(Clone, Debug)]
pub struct Diagonal {
    /// `h`, `[D]`.
    pub values: Tensor<1>,
}

impl Structured for Diagonal {
    fn structure(&self) -> Structure {
        Structure::Diagonal
    }

    fn parameters(&self) -> usize {
        self.values.dims()[0]
    }

    fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        v * self.values.clone().unsqueeze()
    }

    fn diagonal(&self) -> Tensor<2> {
        self.values.clone().unsqueeze()
    }

    fn trace(&self) -> Result<f64, ReadError> {
        Ok(host(self.values.clone())?.iter().sum())
    }

    fn to_dense(&self) -> Tensor<2> {
        let h = &self.values;
        Tensor::<2>::eye(self.parameters(), &h.device()).cast(h.dtype()) * h.clone().unsqueeze()
    }

    fn core(&self) -> Core<'_> {
        Core::Eigenvalues { values: self.diagonal(), complete: true }
    }

    fn with_core(&self, core: Tensor<2>) -> Curvature {
        Curvature::Diagonal(Self { values: core.squeeze_dim(0) })
    }

    fn cast(&self, dtype: DType) -> Curvature {
        self.with_core(self.diagonal().cast(dtype))
    }
}
