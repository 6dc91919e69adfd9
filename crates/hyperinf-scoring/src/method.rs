use std::sync::Arc;

use hyperinf_curvature::{Scale, Side, Storage};
use hyperinf_solvers::Solver;

/// How a query's gradient is turned into scores.
#[derive(Clone)]
pub enum Method {
    /// The dot product with every training gradient.
    Identity,
    /// The dot product after `(H + λI)⁻¹`: any storage that the solver supports.
    Inverse {
        /// How a block's curvature is stored.
        storage: Storage,
        /// How it is inverted.
        solver: Arc<dyn Solver>,
    },
}

impl Method {
    /// A method of a storage and a solver, one's own included.
    pub fn inverse(storage: Storage, solver: impl Solver + 'static) -> Self {
        Self::Inverse { storage, solver: Arc::new(solver) }
    }
}

/// The choices of the generalized Fisher information matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gfim {
    /// The side that is summed over.
    pub side: Side,
    /// Whether its length is divided out.
    pub scale: Scale,
}

impl Gfim {
    /// The storage with these choices.
    pub fn storage(self) -> Storage {
        Storage::OneSided { side: self.side, scale: self.scale }
    }
}

/// A method under its name, as `hyperinf methods` lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodInfo {
    /// The name.
    pub name: &'static str,
    /// What it computes, in one line.
    pub summary: &'static str,
    /// What it costs, for `n` samples and a block of `D = r·d` parameters.
    pub cost: &'static str,
    /// Where it comes from.
    pub source: &'static str,
}

/// Every named method; [`Options::named`](crate::Options::named) makes its options.
pub fn methods() -> &'static [MethodInfo] {
    &[
        MethodInfo {
            name: "identity",
            summary: "dot product of the gradients (TracIn at one checkpoint, Hessian-free)",
            cost: "nD per query",
            source: "Pruthi et al. 2020, eq. 1",
        },
        MethodInfo {
            name: "cosine",
            summary: "dot product over both norms, all blocks together",
            cost: "nD per query",
            source: "Hanawa et al. 2021, sec. 3",
        },
        MethodInfo {
            name: "datainf",
            summary: "mean of the samples' own inverses in place of the inverse of their mean",
            cost: "two products nD per query; holds a block's gradients",
            source: "Kwon et al. 2024, eq. 5",
        },
        MethodInfo {
            name: "lissa",
            summary: "Neumann series of the scaled empirical Fisher, full batches",
            cost: "two products nD per step; holds a block's gradients or D²",
            source: "Agarwal et al. 2017, sec. 3; Koh and Liang 2017, sec. 3",
        },
        MethodInfo {
            name: "cg",
            summary: "conjugate gradients on the empirical Fisher, all queries at once",
            cost: "two products nD per step in f64; holds a block's gradients or D²",
            source: "Hestenes and Stiefel 1952; Martens 2010, sec. 4",
        },
        MethodInfo {
            name: "block-cg",
            summary: "conjugate gradients on the empirical Fisher; each query searches in the directions of all",
            cost: "two products nD per step in f64, fewer steps than cg; holds a block's gradients or D²",
            source: "O'Leary 1980; Ji and Li 2017",
        },
        MethodInfo {
            name: "lanczos",
            summary: "64 largest eigenpairs of the empirical Fisher by Lanczos, everything else at λ",
            cost: "128 products 2nD and 128 vectors of D; holds a block's gradients or D²",
            source: "Schioppa et al. 2022, sec. 3",
        },
        MethodInfo {
            name: "nystrom",
            summary: "randomized Nyström approximation of the empirical Fisher of rank 128, everything else at λ",
            cost: "two products 128·nD, 8D·128²; holds a block's gradients or D²",
            source: "Frangella et al. 2023, alg. 2.1",
        },
        MethodInfo {
            name: "exact",
            summary: "exact inverse of the empirical Fisher: Cholesky, or the n × n dual",
            cost: "n²D + n³/3 (dual) or nD² + D³/3; holds a block's gradients or D²",
            source: "Koh and Liang 2017, eq. 2; Woodbury 1950",
        },
        MethodInfo {
            name: "hyperinf",
            summary: "generalized Fisher (one factor per block) inverted by Chebyshev-scaled Schulz",
            cost: "2nrd² once, 4d³ per step, d² memory",
            source: "Zhou et al. 2024, sec. 3",
        },
        MethodInfo {
            name: "hyperinf-authors",
            summary: "the authors' program: unscaled GFIM, 0.001 on the diagonal, 30 Schulz steps from 5e-5·I",
            cost: "2nrd² once, 30 × 4d³, d² memory",
            source: "Zhou et al. 2024, published program",
        },
        MethodInfo {
            name: "diagonal",
            summary: "the diagonal of the empirical Fisher",
            cost: "nD once, D memory",
            source: "Kirkpatrick et al. 2017, eq. 3",
        },
        MethodInfo {
            name: "kfac",
            summary: "Kronecker product of the second moments of a layer's inputs and of what came back; needs activations",
            cost: "2n(r² + d²) once, eigenbases 9(r³ + d³), r² + d² memory",
            source: "Martens and Grosse 2015, sec. 3",
        },
        MethodInfo {
            name: "ekfac",
            summary: "K-FAC's eigenbases with eigenvalues fitted to the gradients; needs activations",
            cost: "as kfac, and 2nD(r + d) in a second pass",
            source: "George et al. 2018, eq. 7; Grosse et al. 2023, sec. 2.2",
        },
        MethodInfo {
            name: "shampoo",
            summary: "eigenbases of Σ g gᵀ and Σ gᵀg with eigenvalues fitted to the gradients",
            cost: "as ekfac, from gradients alone",
            source: "Gupta et al. 2018, alg. 1; George et al. 2018, eq. 7",
        },
    ]
}
