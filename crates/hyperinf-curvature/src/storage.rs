use hyperinf_gradients::Block;
use hyperinf_linalg::{TooLarge, check_size};

use crate::{CurvatureError, Scale, Side, Structure};

/// The largest matrix that an accumulator starts, in bytes.
const MATRIX_LIMIT: u64 = 16 << 30;
/// The largest set of samples that an accumulator holds, in bytes.
const SAMPLES_LIMIT: u64 = 64 << 30;
const F32: u64 = 4;
const F64: u64 = 8;

/// How a block's curvature is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// `[D, D]`, whatever the number of samples.
    Dense,
    /// All samples, `[n, D]`; captures as they are, where that takes less memory.
    Samples,
    /// The smaller of the two, both exact: samples while `n ≤ D`, the dense matrix from then on.
    Full,
    /// One factor (GFIM).
    OneSided {
        /// The side that is summed over.
        side: Side,
        /// Whether its length is divided out.
        scale: Scale,
    },
    /// The diagonal, `[D]`.
    Diagonal,
    /// One number, the mean of the diagonal: `H = (tr F/D)·I`, of all multiples of the identity the one nearest to `F`
    /// in the Frobenius norm. Its trace is the Fisher's.
    Isotropic,
    /// The Kronecker product of the second moments of a layer's inputs and its output gradients, from captures (Martens
    /// and Grosse 2015, section 3): `H = A ⊗ S`, `A` the mean of `a aᵀ` over positions, `S = (1/n) Σ δ δᵀ` over samples
    /// and positions. Exact if `a` and `δ` are independent and positions of a sample do not correlate.
    ///
    /// Where a sample has one position, `A` is a mean over all samples. Where it has several, positions without an
    /// output gradient (`δ = 0`) count as padding and are left out of `A`.
    ///
    /// Eigenvectors are in descending order of their own factor's eigenvalues.
    Kronecker {
        /// Fits the eigenvalues in the factors' eigenbases, `Λ_ij = mean (Q_Aᵀ g Q_S)_ij²`, in a second pass: the
        /// diagonal nearest to `F` in this basis (EK-FAC; George et al. 2018). Their trace is the Fisher's.
        corrected: bool,
    },
    /// The same from gradients alone: the eigenbases of `L = mean g gᵀ` and `R = mean gᵀ g` (Shampoo's statistics;
    /// Gupta et al. 2018, algorithm 1).
    TwoSided {
        /// Fits the eigenvalues in a second pass, as in [`Storage::Kronecker`]. Otherwise they are the products of the
        /// two sides' divided by `tr L = tr R`, so that the trace is the Fisher's: `H = L ⊗ R / tr L`.
        corrected: bool,
    },
    /// The leading eigenpairs of `F` by a randomised Nyström approximation in one pass (Tropp et al. 2017, algorithm
    /// 3), from `min(2·rank + 1, D)` random rows: its expected error in the nuclear norm is at most twice the smallest
    /// that any matrix of this rank has. Never above `F`; exact once the rank is `F`'s.
    LowRank {
        /// Eigenpairs kept, at least 1; at most `D` of them exist.
        rank: usize,
        /// The seed of the random rows.
        seed: u64,
    },
}

impl Storage {
    /// The structures that a curvature of this storage may have.
    pub fn structures(self) -> &'static [Structure] {
        match self {
            Self::Dense => &[Structure::Dense],
            Self::Samples => &[Structure::Samples],
            Self::Full => &[Structure::Samples, Structure::Dense],
            Self::OneSided { .. } => &[Structure::OneSided],
            Self::Diagonal => &[Structure::Diagonal],
            Self::Isotropic => &[Structure::Isotropic],
            Self::Kronecker { .. } | Self::TwoSided { .. } => &[Structure::Kronecker],
            Self::LowRank { .. } => &[Structure::Eigenpairs],
        }
    }

    /// Whether it needs captures, the layers' inputs and output gradients, and not only their products.
    pub fn needs_captures(self) -> bool {
        match self {
            Self::Kronecker { .. } => true,
            Self::Dense
            | Self::Samples
            | Self::Full
            | Self::OneSided { .. }
            | Self::Diagonal
            | Self::Isotropic
            | Self::TwoSided { .. }
            | Self::LowRank { .. } => false,
        }
    }

    /// How many times the samples are added: see [`Accumulator::end_pass`](crate::Accumulator::end_pass).
    pub fn passes(self) -> usize {
        match self {
            Self::Kronecker { corrected } | Self::TwoSided { corrected } => 1 + usize::from(corrected),
            Self::Dense
            | Self::Samples
            | Self::Full
            | Self::OneSided { .. }
            | Self::Diagonal
            | Self::Isotropic
            | Self::LowRank { .. } => 1,
        }
    }

    /// Whether all `samples` of a block are held when their curvature is finished.
    pub fn holds_samples(self, block: &Block, samples: usize) -> bool {
        match self {
            Self::Samples => true,
            Self::Full => samples <= block.parameters(),
            Self::Dense
            | Self::OneSided { .. }
            | Self::Diagonal
            | Self::Isotropic
            | Self::Kronecker { .. }
            | Self::TwoSided { .. }
            | Self::LowRank { .. } => false,
        }
    }

    /// About what a block's curvature of `samples` gradients and its inverse take, in bytes: the sums in f64, a second
    /// one while a batch is added, copies, and a factor or the iterates of an inverse. Samples that are held are not counted; see
    /// [`Storage::holds_samples`].
    pub fn memory(self, block: &Block, samples: usize) -> f64 {
        let (n, d) = (samples as f64, block.parameters() as f64);
        let numbers = 6.0 * F64 as f64;
        let matrix = |side: usize| (side as f64).powi(2) * numbers;
        match self {
            Self::Samples => 0.0,
            // The Gram matrix and its factor.
            Self::Full if self.holds_samples(block, samples) => 2.0 * F64 as f64 * n * n,
            Self::Full | Self::Dense => matrix(block.parameters()),
            Self::OneSided { side, .. } => {
                matrix(if side.contracts_rows(block.rows, block.cols) { block.cols } else { block.rows })
            }
            Self::Diagonal => d * numbers,
            Self::Isotropic => numbers,
            Self::Kronecker { .. } | Self::TwoSided { .. } => matrix(block.rows) + matrix(block.cols) + d * numbers,
            // The random rows and their products with F, in f64 while they are decomposed.
            Self::LowRank { rank, .. } => test_rows(rank, block.parameters()) as f64 * d * numbers,
        }
    }

    /// The same with the shorter side of this block, before it was projected, in place of [`Side::Short`].
    pub fn by_sides_of(self, block: &Block) -> Self {
        match self {
            Self::OneSided { side: side @ Side::Short, scale } => {
                let rows = side.contracts_rows(block.rows, block.cols);
                Self::OneSided { side: if rows { Side::Rows } else { Side::Cols }, scale }
            }
            other => other,
        }
    }

    /// Fails if what it starts with would be too large for the block, or a parameter is out of its range.
    pub(crate) fn check(self, block: &Block) -> Result<(), CurvatureError> {
        match self {
            Self::Dense => check_matrix(block, block.parameters()),
            Self::OneSided { side, .. } if side.contracts_rows(block.rows, block.cols) => {
                check_matrix(block, block.cols)
            }
            Self::OneSided { .. } => check_matrix(block, block.rows),
            // Decomposed in f64.
            Self::Kronecker { .. } | Self::TwoSided { .. } => {
                let side = block.rows.max(block.cols);
                check(block, "a factor in f64", [side, side], F64, MATRIX_LIMIT)
            }
            Self::LowRank { rank: 0, .. } => Err(CurvatureError::Rank { block: block.name.clone() }),
            Self::LowRank { rank, .. } => {
                let shape = [test_rows(rank, block.parameters()), block.parameters()];
                check(block, "a sketch in f64", shape, F64, MATRIX_LIMIT)
            }
            Self::Samples | Self::Full | Self::Diagonal | Self::Isotropic => Ok(()),
        }
    }
}

/// The number of random rows that `rank` eigenpairs are computed from.
pub(crate) fn test_rows(rank: usize, parameters: usize) -> usize {
    rank.saturating_mul(2).saturating_add(1).min(parameters)
}

/// Fails if a matrix `[side, side]` in f32 would be too large.
pub(crate) fn check_matrix(block: &Block, side: usize) -> Result<(), CurvatureError> {
    check(block, "a matrix", [side, side], F32, MATRIX_LIMIT)
}

/// Fails if `samples` gradients of the block in f32 would be too large.
pub(crate) fn check_samples(block: &Block, samples: usize) -> Result<(), CurvatureError> {
    check(block, "all samples", [samples, block.parameters()], F32, SAMPLES_LIMIT)
}

/// Fails if captures of the block with so many positions in all would be too large in f32.
pub(crate) fn check_captures(block: &Block, positions: usize) -> Result<(), CurvatureError> {
    check(block, "all captures", [positions, block.rows + block.cols], F32, SAMPLES_LIMIT)
}

fn check(block: &Block, what: &'static str, shape: [usize; 2], width: u64, limit: u64) -> Result<(), CurvatureError> {
    check_size(shape, width, limit).map_err(|TooLarge { rows, cols, gib, limit_gib }| {
        let block = block.name.clone();
        CurvatureError::TooLarge { block, what, rows, cols, gib, limit_gib }
    })
}
