use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Diagonal, Eigenpairs};
use hyperinf_linalg::{host, tensor_from_host};

use crate::{SolveError, nystrom_eigen};

/// The preconditioner `P` of conjugate gradients, `Z = R P⁻¹`: it changes the number of steps, never the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preconditioner {
    /// None: `P = I`.
    #[default]
    None,
    /// `P = diag(H) + λI`, for parameters of very different scales.
    Jacobi,
    /// The largest eigenpairs of [`nystrom_eigen`] (Frangella, Tropp and Udell 2023, equation 1.3), for decaying
    /// spectra:
    ///
    /// ```text
    /// P⁻¹ = (μ_k + λ) U (Λ + λI)⁻¹ Uᵀ + (I − U Uᵀ)
    /// ```
    ///
    /// With `rank` above the number of eigenvalues larger than `λ` the condition is a small constant.
    Nystrom {
        /// Eigenpairs at most, ≥ 1.
        rank: usize,
        /// Seed of the random directions.
        seed: u64,
    },
}

/// A [`Preconditioner`] of one damped curvature.
pub(crate) enum Preconditioned {
    None,
    /// `Z = R M`.
    Times(Box<Curvature>),
    /// `Z = R + R M`.
    Plus(Box<Curvature>),
}

impl Preconditioned {
    /// For `H + λI`, with `h` in the type of the residuals.
    pub(crate) fn new(
        solver: &'static str,
        preconditioner: Preconditioner,
        h: &Curvature,
        lambda: f64,
    ) -> Result<Self, SolveError> {
        match preconditioner {
            Preconditioner::None => Ok(Self::None),
            Preconditioner::Jacobi => {
                let diagonal = h.diagonal();
                let (dims, device, dtype) = (diagonal.dims(), diagonal.device(), diagonal.dtype());
                let values: Vec<f64> = host(diagonal)?.into_iter().map(|h| h + lambda).collect();
                if values.iter().any(|value| !value.is_finite()) {
                    return Err(SolveError::NonFinite { solver, what: "the curvature" });
                }
                if values.iter().any(|value| *value <= 0.0) {
                    return Err(SolveError::NotPositiveDefinite { solver, size: values.len(), lambda });
                }
                let inverse = tensor_from_host(values.into_iter().map(f64::recip).collect(), dims, &device, dtype);
                Ok(Self::Times(Box::new(Diagonal { values: inverse.squeeze_dim(0) }.into())))
            }
            Preconditioner::Nystrom { rank, seed } => {
                let Eigenpairs { vectors, values } = nystrom_eigen(h, rank, seed)?;
                let values = host(values)?;
                let least = values.iter().copied().fold(f64::INFINITY, f64::min);
                let weights = values.iter().map(|value| (least + lambda) / (value + lambda) - 1.0).collect();
                let weights = tensor_from_host(weights, [1, values.len()], &vectors.device(), vectors.dtype());
                Ok(Self::Plus(Box::new(Eigenpairs { vectors, values: weights.squeeze_dim(0) }.into())))
            }
        }
    }

    /// `R P⁻¹`, `[q, D]`.
    pub(crate) fn apply(&self, r: Tensor<2>) -> Tensor<2> {
        match self {
            Self::None => r,
            Self::Times(matrix) => matrix.apply(r),
            Self::Plus(matrix) => r.clone() + matrix.apply(r),
        }
    }
}
