use burn::tensor::{DType, Tensor, assert_shape};
use hyperinf_linalg::{ReadError, precise_type};
use serde::{Deserialize, Serialize};

use crate::{
    Captured, Core, CurvatureError, Dense, Diagonal, Eigenpairs, Isotropic, Kronecker, OneSided, Samples, Structured,
};

/// The kind of a [`Curvature`], without its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Structure {
    /// The full matrix of the block.
    Dense,
    /// The samples themselves.
    Samples,
    /// One factor, repeated along the other side (GFIM).
    OneSided,
    /// The diagonal.
    Diagonal,
    /// A multiple of the identity.
    Isotropic,
    /// Eigenvalues in a basis of Kronecker products (K-FAC, EK-FAC, two-sided).
    Kronecker,
    /// Some eigenpairs; zero on the complement.
    Eigenpairs,
}

impl Structure {
    /// All structures.
    pub const ALL: [Self; 7] = [
        Self::Dense,
        Self::Samples,
        Self::OneSided,
        Self::Diagonal,
        Self::Isotropic,
        Self::Kronecker,
        Self::Eigenpairs,
    ];
}

/// The curvature of one block: a symmetric positive semi-definite `[D, D]` matrix in some structure.
///
/// Vectors are rows `[q, D]` in the block's row-major order, `D = rows · cols`. Every method acts on whatever structure
/// is inside, with the same result as on the matrix written out.
///
/// ```
/// use burn::tensor::Tensor;
/// use hyperinf_curvature::{Curvature, Dense, Samples};
/// use hyperinf_linalg::host;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (_, device) = hyperinf_tests::devices().remove(0);
/// // Two samples of a block with three parameters: H = (g₁g₁ᵀ + g₂g₂ᵀ) / 2.
/// let rows = Tensor::<2>::from_data([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]], &device);
/// let held = Curvature::from(Samples { rows });
/// let dense = Curvature::from(Dense { matrix: held.to_dense() });
///
/// let v = Tensor::<2>::from_data([[1.0, 1.0, 1.0]], &device);
/// assert_eq!(host(held.apply(v.clone()))?, [1.5, 6.0, 5.0]);
/// assert_eq!(host(dense.apply(v))?, [1.5, 6.0, 5.0]);
/// assert_eq!((held.parameters(), held.trace()?), (3, 7.5));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per block; how large a tensor is depends on the backends")]
pub enum Curvature {
    /// `H` itself.
    Dense(Dense),
    /// `H = RᵀR/m` for the samples `R`.
    Samples(Samples),
    /// The same, with the captures that the samples are products of.
    Captured(Captured),
    /// One factor, repeated along the other side.
    OneSided(OneSided),
    /// `H = diag(h)`.
    Diagonal(Diagonal),
    /// `H = μI`.
    Isotropic(Isotropic),
    /// Eigenvalues in a basis of Kronecker products.
    Kronecker(Kronecker),
    /// Some eigenpairs.
    Eigenpairs(Eigenpairs),
}

impl Curvature {
    /// What all structures have in common.
    fn structured(&self) -> &dyn Structured {
        match self {
            Self::Dense(h) => h,
            Self::Samples(h) => h,
            Self::Captured(h) => h,
            Self::OneSided(h) => h,
            Self::Diagonal(h) => h,
            Self::Isotropic(h) => h,
            Self::Kronecker(h) => h,
            Self::Eigenpairs(h) => h,
        }
    }

    /// The structure.
    pub fn structure(&self) -> Structure {
        self.structured().structure()
    }

    /// `D`, the number of parameters of the block.
    pub fn parameters(&self) -> usize {
        self.structured().parameters()
    }

    /// `V H`, `[q, D]` for rows `V` `[q, D]` of any type, computed in the type of the curvature.
    ///
    /// # Panics
    ///
    /// If `V` has not `D` columns.
    pub fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        let (d, given, own) = (self.parameters(), v.dtype(), self.like().dtype());
        assert_shape!(v, [_, d]);
        if given == own { self.structured().apply(v) } else { self.structured().apply(v.cast(own)).cast(given) }
    }

    /// The diagonal of `H`, `[1, D]`.
    pub fn diagonal(&self) -> Tensor<2> {
        self.structured().diagonal()
    }

    /// The trace of `H`, summed in f64 over its diagonal, its eigenvalues or its samples' squared norms.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn trace(&self) -> Result<f64, ReadError> {
        self.structured().trace()
    }

    /// `H` written out, `[D, D]`: for tests and small blocks.
    pub fn to_dense(&self) -> Tensor<2> {
        self.structured().to_dense()
    }

    /// What an inverse is computed from.
    pub fn core(&self) -> Core<'_> {
        self.structured().core()
    }

    /// The same structure around another core: the inverse of its factor, functions of its eigenvalues, other samples.
    ///
    /// # Panics
    ///
    /// May panic here or where it is applied, if the shape is not that of [`Curvature::core`].
    pub fn with_core(&self, core: Tensor<2>) -> Self {
        self.structured().with_core(core)
    }

    /// `4^exponent H`, exactly, unless a value leaves the range of its type: held samples are multiplied by
    /// `2^exponent`, any other core by its square.
    pub fn scaled(&self, exponent: i32) -> Self {
        // In two halves: the whole factor may not fit the type.
        let times = |core: Tensor<2>, exponent: i32| {
            let power = |exponent: i32| f64::from(exponent).exp2();
            core.mul_scalar(power(exponent / 2)).mul_scalar(power(exponent - exponent / 2))
        };
        match self.core() {
            Core::Samples(rows) => rows.scaled(exponent).into(),
            Core::Matrix { matrix, .. } => self.with_core(times(matrix.clone(), 2 * exponent)),
            Core::Eigenvalues { values, .. } => self.with_core(times(values, 2 * exponent)),
        }
    }

    /// The one matrix of a dense or one-sided curvature: `[D, D]`, or the factor.
    pub fn matrix(&self) -> Option<&Tensor<2>> {
        match self.core() {
            Core::Matrix { matrix, .. } => Some(matrix),
            Core::Samples(_) | Core::Eigenvalues { .. } => None,
        }
    }

    /// The side of the largest matrix that a solver decomposes: of `matrix`, or of the samples' Gram matrix; 0 where
    /// eigenvalues are known.
    pub fn decomposed_side(&self) -> usize {
        match self.core() {
            Core::Matrix { matrix, .. } => matrix.dims()[0],
            Core::Samples(rows) => rows.dims()[0],
            Core::Eigenvalues { .. } => 0,
        }
    }

    /// A tensor on the device and in the type of all its tensors.
    pub fn like(&self) -> Tensor<2> {
        match self.core() {
            Core::Matrix { matrix, .. } => matrix.clone(),
            Core::Samples(rows) => rows.like(),
            Core::Eigenvalues { values, .. } => values,
        }
    }

    /// The same curvature in another type.
    pub fn cast(&self, dtype: DType) -> Self {
        self.structured().cast(dtype)
    }

    /// The same curvature in f64, where its device has f64.
    pub fn precise(&self) -> Self {
        let like = self.like();
        self.cast(precise_type(&like.device(), like.dtype()))
    }
}

/// Wraps each structure in its variant, and takes it out again.
macro_rules! variants {
    ($($structure:ident),*) => {
        $(impl From<$structure> for Curvature {
            fn from(h: $structure) -> Self {
                Self::$structure(h)
            }
        }

        impl TryFrom<Curvature> for $structure {
            type Error = CurvatureError;

            fn try_from(h: Curvature) -> Result<Self, CurvatureError> {
                let found = h.structure();
                if let Curvature::$structure(h) = h {
                    return Ok(h);
                }
                Err(CurvatureError::Structure { expected: Structure::$structure, found })
            }
        })*
    };
}

variants!(Dense, OneSided, Diagonal, Isotropic, Kronecker, Eigenpairs);

impl From<Samples> for Curvature {
    fn from(h: Samples) -> Self {
        Self::Samples(h)
    }
}

impl From<Captured> for Curvature {
    fn from(h: Captured) -> Self {
        Self::Captured(h)
    }
}

impl TryFrom<Curvature> for Samples {
    type Error = CurvatureError;

    /// Captures are multiplied out.
    fn try_from(h: Curvature) -> Result<Self, CurvatureError> {
        match h.core() {
            Core::Samples(rows) => Ok(Self { rows: rows.rows() }),
            Core::Matrix { .. } | Core::Eigenvalues { .. } => {
                Err(CurvatureError::Structure { expected: Structure::Samples, found: h.structure() })
            }
        }
    }
}
