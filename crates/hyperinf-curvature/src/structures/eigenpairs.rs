use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{ReadError, combine, host};

use crate::{Core, Curvature, Structure, Structured};

/// `H = Σ_k μ_k q_k q_kᵀ`: low rank, zero on the complement, where the damping alone acts.
#[derive(Clone, Debug)]
pub struct Eigenpairs {
    /// `q_k`, orthonormal rows, `[k, D]`.
    pub vectors: Tensor<2>,
    /// `μ_k`, `[k]`.
    pub values: Tensor<1>,
}

impl Structured for Eigenpairs {
    fn structure(&self) -> Structure {
        Structure::Eigenpairs
    }

    fn parameters(&self) -> usize {
        self.vectors.dims()[1]
    }

    fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        let weights = v.matmul(self.vectors.clone().transpose()) * self.values.clone().unsqueeze();
        weights.matmul(self.vectors.clone())
    }

    fn diagonal(&self) -> Tensor<2> {
        combine(self.values.clone().unsqueeze(), self.vectors.clone().square())
    }

    fn trace(&self) -> Result<f64, ReadError> {
        Ok(host(self.values.clone())?.iter().sum())
    }

    fn to_dense(&self) -> Tensor<2> {
        (self.vectors.clone().transpose() * self.values.clone().unsqueeze()).matmul(self.vectors.clone())
    }

    fn core(&self) -> Core<'_> {
        Core::Eigenvalues { values: self.values.clone().unsqueeze(), complete: false }
    }

    fn with_core(&self, core: Tensor<2>) -> Curvature {
        Curvature::Eigenpairs(Self { vectors: self.vectors.clone(), values: core.squeeze_dim(0) })
    }

    fn cast(&self, dtype: DType) -> Curvature {
        let (vectors, values) = (self.vectors.clone().cast(dtype), self.values.clone().cast(dtype));
        Curvature::Eigenpairs(Self { vectors, values })
    }
}
