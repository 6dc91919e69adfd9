use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{ReadError, host};

use crate::{Core, Curvature, Structure, Structured};

/// `H = μI`: one number for the whole block.
#[derive(Clone, Debug)]
pub struct Isotropic {
    /// `μ`, `[1, 1]`.
    pub value: Tensor<2>,
    /// `D`.
    pub parameters: usize,
}

impl Structured for Isotropic {
    fn structure(&self) -> Structure {
        Structure::Isotropic
    }

    fn parameters(&self) -> usize {
        self.parameters
    }

    fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        v * self.value.clone()
    }

    fn diagonal(&self) -> Tensor<2> {
        self.value.clone().expand([1, self.parameters])
    }

    fn trace(&self) -> Result<f64, ReadError> {
        let value: f64 = host(self.value.clone())?.iter().sum();
        Ok(value * self.parameters as f64)
    }

    fn to_dense(&self) -> Tensor<2> {
        let eye = Tensor::<2>::eye(self.parameters, &self.value.device());
        eye.cast(self.value.dtype()) * self.value.clone()
    }

    // One eigenvalue, D times: what solvers do with each of them, they do once.
    fn core(&self) -> Core<'_> {
        Core::Eigenvalues { values: self.value.clone(), complete: true }
    }

    fn with_core(&self, core: Tensor<2>) -> Curvature {
        Curvature::Isotropic(Self { value: core, ..*self })
    }

    fn cast(&self, dtype: DType) -> Curvature {
        self.with_core(self.value.clone().cast(dtype))
    }
}
