use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{ReadError, host, kronecker, rotate};

use crate::{Core, Curvature, Structure, Structured};

/// `H = (Q_A ⊗ Q_S) diag(Λ) (Q_A ⊗ Q_S)ᵀ`: K-FAC, EK-FAC and the two-sided form of gradients alike.
#[derive(Clone, Debug)]
pub struct Kronecker {
    /// `Q_A`, the input side's orthonormal eigenvectors in its columns, `[rows, rows]`.
    pub left: Tensor<2>,
    /// `Q_S`, the output side's, `[cols, cols]`.
    pub right: Tensor<2>,
    /// `Λ`, the eigenvalue of each pair of eigenvectors, `[rows, cols]`.
    pub eigenvalues: Tensor<2>,
}

impl Structured for Kronecker {
    fn structure(&self) -> Structure {
        Structure::Kronecker
    }

    fn parameters(&self) -> usize {
        self.eigenvalues.dims().iter().product()
    }

    fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        let Self { left, right, eigenvalues } = self;
        let v = rotate(v, left.clone(), right.clone()) * eigenvalues.clone().reshape([1, self.parameters()]);
        rotate(v, left.clone().transpose(), right.clone().transpose())
    }

    fn diagonal(&self) -> Tensor<2> {
        let scaled = self.left.clone().square().matmul(self.eigenvalues.clone());
        scaled.matmul(self.right.clone().square().transpose()).reshape([1, self.parameters()])
    }

    fn trace(&self) -> Result<f64, ReadError> {
        Ok(host(self.eigenvalues.clone())?.iter().sum())
    }

    fn to_dense(&self) -> Tensor<2> {
        let basis = kronecker(self.left.clone(), self.right.clone());
        let scaled = basis.clone() * self.eigenvalues.clone().reshape([1, self.parameters()]);
        scaled.matmul(basis.transpose())
    }

    fn core(&self) -> Core<'_> {
        Core::Eigenvalues { values: self.eigenvalues.clone(), complete: true }
    }

    fn with_core(&self, core: Tensor<2>) -> Curvature {
        Curvature::Kronecker(Self { left: self.left.clone(), right: self.right.clone(), eigenvalues: core })
    }

    fn cast(&self, dtype: DType) -> Curvature {
        Curvature::Kronecker(Self {
            left: self.left.clone().cast(dtype),
            right: self.right.clone().cast(dtype),
            eigenvalues: self.eigenvalues.clone().cast(dtype),
        })
    }
}
