use burn::tensor::{DType, Tensor, assert_shape};
use hyperinf_linalg::{diagonal, host, kronecker, normal_product, outer, precise_type, rotate, scalars};

use crate::CurvatureError;

/// The kind of a [`Curvature`], without its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Structure {
    /// The full matrix of the block.
    Dense,
    /// The samples themselves.
    Samples,
    /// One factor, repeated along the other side (GFIM).
    OneSided,
    /// The diagonal.
    Diagonal,
    /// Eigenvalues in a basis of Kronecker products (K-FAC, EK-FAC, two-sided).
    Kronecker,
    /// Some eigenpairs; zero on the complement.
    Eigen,
}

impl Structure {
    /// All structures.
    pub const ALL: [Self; 6] =
        [Self::Dense, Self::Samples, Self::OneSided, Self::Diagonal, Self::Kronecker, Self::Eigen];
}

/// Which side of a block the GFIM sums over (contracts); the factor keeps the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Side {
    /// The shorter side, as the HyperINF paper orients LoRA matrices; the columns if both are equal.
    #[default]
    Short,
    /// The rows (inputs): the factor is `(1/n) Σ gᵀg`, `[cols, cols]`.
    Rows,
    /// The columns (outputs): the factor is `(1/n) Σ g gᵀ`, `[rows, rows]`.
    Cols,
}

impl Side {
    /// Whether a block of `rows × cols` has its rows contracted.
    pub fn contracts_rows(self, rows: usize, cols: usize) -> bool {
        match self {
            Self::Short => rows < cols,
            Self::Rows => true,
            Self::Cols => false,
        }
    }
}

/// How the contracted side enters the GFIM's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scale {
    /// Divide by the length of the contracted side, so that the trace is the Fisher's: `F ≈ I ⊗ R/r` (HyperINF,
    /// section 3).
    #[default]
    Mean,
    /// Leave it out, as the HyperINF authors' program does: the curvature is `r` times larger.
    Sum,
}

/// The curvature of one block: a symmetric positive semi-definite `[D, D]` matrix in some structure.
///
/// Vectors are rows `[q, D]` in the block's row-major order, `D = rows · cols`.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per block; how large a tensor is depends on the backends")]
pub enum Curvature {
    /// `H` itself, `[D, D]`.
    Dense(Tensor<2>),
    /// `H = RᵀR/m` for the samples `R`, `[m, D]`.
    Samples(Tensor<2>),
    /// `H = I ⊗ factor` (rows contracted) or `factor ⊗ I` (columns contracted): the generalized Fisher information
    /// matrix of HyperINF.
    OneSided {
        /// `[cols, cols]` if the rows are contracted, else `[rows, rows]`.
        factor: Tensor<2>,
        /// The block's rows.
        rows: usize,
        /// The block's columns.
        cols: usize,
        /// Whether the rows are the contracted side.
        rows_contracted: bool,
    },
    /// `H = diag(h)`, `[D]`.
    Diagonal(Tensor<1>),
    /// `H = (Q_A ⊗ Q_S) diag(Λ) (Q_A ⊗ Q_S)ᵀ`: K-FAC, EK-FAC and the two-sided form of gradients alike.
    Kronecker {
        /// `Q_A`, the input side's orthonormal eigenvectors in its columns, `[rows, rows]`.
        left: Tensor<2>,
        /// `Q_S`, the output side's, `[cols, cols]`.
        right: Tensor<2>,
        /// `Λ`, the eigenvalue of each pair of eigenvectors, `[rows, cols]`.
        eigenvalues: Tensor<2>,
    },
    /// `H = Σ_k μ_k q_k q_kᵀ`: low rank, zero on the complement, where damping takes its place.
    Eigen {
        /// `q_k`, orthonormal rows, `[k, D]`.
        vectors: Tensor<2>,
        /// `μ_k`, `[k]`.
        values: Tensor<1>,
    },
}

impl Curvature {
    /// The structure.
    pub fn structure(&self) -> Structure {
        match self {
            Self::Dense(_) => Structure::Dense,
            Self::Samples(_) => Structure::Samples,
            Self::OneSided { .. } => Structure::OneSided,
            Self::Diagonal(_) => Structure::Diagonal,
            Self::Kronecker { .. } => Structure::Kronecker,
            Self::Eigen { .. } => Structure::Eigen,
        }
    }

    /// `D`, the number of parameters of the block.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Dense(h) => h.dims()[0],
            Self::Samples(r) => r.dims()[1],
            Self::OneSided { rows, cols, .. } => rows * cols,
            Self::Diagonal(h) => h.dims()[0],
            Self::Kronecker { eigenvalues, .. } => eigenvalues.dims().iter().product(),
            Self::Eigen { vectors, .. } => vectors.dims()[1],
        }
    }

    /// `V H`, `[q, D]` for rows `V` `[q, D]`.
    ///
    /// # Panics
    ///
    /// If `v` has not `D` columns.
    pub fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        let d = self.parameters();
        assert_shape!(v, [_, d]);
        match self {
            Self::Dense(h) => v.matmul(h.clone()),
            Self::Samples(r) => {
                let m = r.dims()[0] as f64;
                normal_product(v, r.clone(), |products, _| products.div_scalar(m)).0
            }
            Self::OneSided { factor, rows, cols, rows_contracted } => {
                let ([q, _], rows, cols) = (v.dims(), *rows, *cols);
                if *rows_contracted {
                    v.reshape([q * rows, cols]).matmul(factor.clone()).reshape([q, d])
                } else {
                    let v = v.reshape([q, rows, cols]).swap_dims(1, 2).reshape([q * cols, rows]);
                    v.matmul(factor.clone()).reshape([q, cols, rows]).swap_dims(1, 2).reshape([q, d])
                }
            }
            Self::Diagonal(h) => v * h.clone().unsqueeze(),
            Self::Kronecker { left, right, eigenvalues } => {
                let v = rotate(v, left.clone(), right.clone()) * eigenvalues.clone().reshape([1, d]);
                rotate(v, left.clone().transpose(), right.clone().transpose())
            }
            Self::Eigen { vectors, values } => {
                let weights = v.matmul(vectors.clone().transpose()) * values.clone().unsqueeze();
                weights.matmul(vectors.clone())
            }
        }
    }

    /// The one matrix of a dense or one-sided curvature: `[D, D]`, or the factor.
    pub fn matrix(&self) -> Option<&Tensor<2>> {
        match self {
            Self::Dense(matrix) | Self::OneSided { factor: matrix, .. } => Some(matrix),
            Self::Samples(_) | Self::Diagonal(_) | Self::Kronecker { .. } | Self::Eigen { .. } => None,
        }
    }

    /// The same structure around another matrix: the inverse of its factor, say. Structures without one are unchanged.
    pub fn with_matrix(&self, matrix: Tensor<2>) -> Self {
        match *self {
            Self::Dense(_) => Self::Dense(matrix),
            Self::OneSided { rows, cols, rows_contracted, .. } => {
                Self::OneSided { factor: matrix, rows, cols, rows_contracted }
            }
            Self::Samples(_) | Self::Diagonal(_) | Self::Kronecker { .. } | Self::Eigen { .. } => self.clone(),
        }
    }

    /// A tensor of the curvature, whose device and type are those of all.
    pub fn like(&self) -> Tensor<2> {
        match self {
            Self::Dense(matrix) | Self::Samples(matrix) | Self::OneSided { factor: matrix, .. } => matrix.clone(),
            Self::Diagonal(h) => h.clone().unsqueeze(),
            Self::Kronecker { eigenvalues, .. } => eigenvalues.clone(),
            Self::Eigen { vectors, .. } => vectors.clone(),
        }
    }

    /// The same curvature in another type.
    pub fn cast(&self, dtype: DType) -> Self {
        match self {
            Self::Samples(rows) => Self::Samples(rows.clone().cast(dtype)),
            Self::Diagonal(h) => Self::Diagonal(h.clone().cast(dtype)),
            Self::Dense(matrix) | Self::OneSided { factor: matrix, .. } => self.with_matrix(matrix.clone().cast(dtype)),
            Self::Kronecker { left, right, eigenvalues } => Self::Kronecker {
                left: left.clone().cast(dtype),
                right: right.clone().cast(dtype),
                eigenvalues: eigenvalues.clone().cast(dtype),
            },
            Self::Eigen { vectors, values } => {
                Self::Eigen { vectors: vectors.clone().cast(dtype), values: values.clone().cast(dtype) }
            }
        }
    }

    /// The same curvature in f64, where its device has f64.
    pub fn precise(&self) -> Self {
        let like = self.like();
        self.cast(precise_type(&like.device(), like.dtype()))
    }

    /// The trace of `H`; of its eigenvalues where it has them.
    ///
    /// # Errors
    ///
    /// If the device fails while values are read back.
    pub fn trace(&self) -> Result<f64, CurvatureError> {
        Ok(match self {
            Self::Dense(h) => diagonal_sum(h)?,
            Self::Samples(r) => {
                let [m, _] = r.dims();
                scalars(r.clone(), r.clone())?.iter().sum::<f64>() / m as f64
            }
            Self::OneSided { factor, rows, cols, rows_contracted } => {
                let repeats = if *rows_contracted { *rows } else { *cols };
                diagonal_sum(factor)? * repeats as f64
            }
            Self::Diagonal(h) => host(h.clone())?.iter().sum(),
            Self::Kronecker { eigenvalues, .. } => host(eigenvalues.clone())?.iter().sum(),
            Self::Eigen { values, .. } => host(values.clone())?.iter().sum(),
        })
    }

    /// `H` written out, `[D, D]`: for tests and small blocks.
    pub fn to_dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(h) => h.clone(),
            Self::Samples(r) => outer(r.clone()).div_scalar(r.dims()[0] as f64),
            Self::OneSided { factor, rows, cols, rows_contracted } => {
                let eye = |k: usize| Tensor::<2>::eye(k, &factor.device()).cast(factor.dtype());
                if *rows_contracted {
                    kronecker(eye(*rows), factor.clone())
                } else {
                    kronecker(factor.clone(), eye(*cols))
                }
            }
            Self::Diagonal(h) => {
                let [d] = h.dims();
                Tensor::<2>::eye(d, &h.device()).cast(h.dtype()) * h.clone().unsqueeze()
            }
            Self::Kronecker { left, right, eigenvalues } => {
                let basis = kronecker(left.clone(), right.clone());
                let scaled = basis.clone() * eigenvalues.clone().reshape([1, self.parameters()]);
                scaled.matmul(basis.transpose())
            }
            Self::Eigen { vectors, values } => {
                (vectors.clone().transpose() * values.clone().unsqueeze()).matmul(vectors.clone())
            }
        }
    }
}

fn diagonal_sum(matrix: &Tensor<2>) -> Result<f64, CurvatureError> {
    Ok(host(diagonal(matrix.clone()))?.iter().sum())
}
