use hyperinf_curvature::{Scale, Storage};
use hyperinf_solvers::{Auto, BlockCg, Cg, DataInf, Exact, Hyperpower, Lanczos, Lissa, Nystrom, Solver};

use crate::{EstimateKind, Gfim, Method, Normalisation, Options};

/// A named method: one row of the table of all methods, and how its [`Options`] are made.
#[derive(Clone, Copy, Debug)]
pub struct MethodInfo {
    /// The name.
    pub name: &'static str,
    /// Other names that are understood; results always have [`name`](Self::name).
    pub aliases: &'static [&'static str],
    /// What it computes, in one line.
    pub summary: &'static str,
    /// What it costs, for `n` samples and a block of `D = r·d` parameters.
    pub cost: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// The estimate of the curvature that was published with it.
    pub estimate: EstimateKind,
    make: fn(Gfim) -> Options,
}

impl PartialEq for MethodInfo {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for MethodInfo {}

impl MethodInfo {
    /// The method of that name, or with that alias.
    pub fn named(name: &str) -> Option<&'static Self> {
        METHODS.iter().find(|method| method.name == name || method.aliases.contains(&name))
    }

    /// The options of the method, everything else at its default.
    ///
    /// `gfim` matters to `hyperinf` and, except its scale, to `hyperinf-authors`.
    pub fn options(&self, gfim: Gfim) -> Options {
        (self.make)(gfim)
    }

    /// Whether it has a curvature, and so a damping, a solver and an estimate.
    pub fn has_curvature(&self) -> bool {
        self.storage(Gfim::default()).is_some()
    }

    /// Whether it sums over one side of a block, which can be chosen.
    pub fn has_side(&self) -> bool {
        matches!(self.storage(Gfim::default()), Some(Storage::OneSided { .. }))
    }

    /// Whether the scale of the sum over a side can be chosen.
    pub fn has_scale(&self) -> bool {
        let scaled = |scale| self.storage(Gfim { scale, ..Gfim::default() });
        scaled(Scale::Mean) != scaled(Scale::Sum)
    }

    /// Whether its curvature needs captures: a layer's inputs and output gradients.
    pub fn needs_captures(&self) -> bool {
        self.storage(Gfim::default()).is_some_and(Storage::needs_captures)
    }

    /// The solver that serves many dampings from one decomposition, for methods that mean the inverse itself.
    pub fn sweep_solver(&self) -> Option<&'static str> {
        matches!(self.name, "exact" | "hyperinf").then_some("spectral")
    }

    fn storage(&self, gfim: Gfim) -> Option<Storage> {
        match self.options(gfim).method {
            Method::Identity => None,
            Method::Inverse { storage, .. } => Some(storage),
        }
    }
}

/// Every named method.
pub fn methods() -> &'static [MethodInfo] {
    METHODS
}

fn identity(normalisation: Normalisation) -> Options {
    Options { method: Method::Identity, normalisation, ..Options::default() }
}

fn inverse(storage: Storage, solver: impl Solver + 'static) -> Options {
    Options { method: Method::inverse(storage, solver), ..Options::default() }
}

const METHODS: &[MethodInfo] = &[
    MethodInfo {
        name: "identity",
        aliases: &["tracin", "dot"],
        summary: "dot product of the gradients: TracIn at one checkpoint, with its learning rate left out",
        cost: "nD per query",
        source: "Pruthi et al. 2020, eq. 1",
        estimate: EstimateKind::Empirical,
        make: |_| identity(Normalisation::None),
    },
    MethodInfo {
        name: "cosine",
        aliases: &[],
        summary: "dot product over both norms, all blocks together",
        cost: "nD per query",
        source: "Hanawa et al. 2021, sec. 3",
        estimate: EstimateKind::Empirical,
        make: |_| identity(Normalisation::Cosine),
    },
    MethodInfo {
        name: "datainf",
        aliases: &[],
        summary: "mean of the samples' own inverses in place of the inverse of their mean",
        cost: "two products nD per query; holds a block's gradients",
        source: "Kwon et al. 2024, eq. 5",
        estimate: EstimateKind::Empirical,
        make: |_| inverse(Storage::Samples, DataInf),
    },
    MethodInfo {
        name: "lissa",
        aliases: &[],
        summary: "Neumann series of the scaled empirical Fisher, full batches",
        cost: "two products nD per step; holds a block's gradients or D²",
        source: "Agarwal et al. 2017, sec. 3; Koh and Liang 2017, sec. 3",
        estimate: EstimateKind::Empirical,
        make: |_| inverse(Storage::Full, Lissa::default()),
    },
    MethodInfo {
        name: "cg",
        aliases: &[],
        summary: "conjugate gradients on the empirical Fisher, all queries at once",
        cost: "two products nD per step in f64; holds a block's gradients or D²",
        source: "Hestenes and Stiefel 1952; Martens 2010, sec. 4",
        estimate: EstimateKind::Empirical,
        make: |_| inverse(Storage::Full, Cg::default()),
    },
    MethodInfo {
        name: "block-cg",
        aliases: &[],
        summary: "conjugate gradients on the empirical Fisher; each query searches in the directions of all",
        cost: "two products nD per step in f64, fewer steps than cg; holds a block's gradients or D²",
        source: "O'Leary 1980; Ji and Li 2017",
        estimate: EstimateKind::Empirical,
        make: |_| inverse(Storage::Full, BlockCg::default()),
    },
    MethodInfo {
        name: "lanczos",
        aliases: &[],
        summary: "64 largest eigenpairs of the empirical Fisher by Lanczos, everything else at λ",
        cost: "128 products 2nD and 128 vectors of D; holds a block's gradients or D²",
        source: "Schioppa et al. 2022, sec. 3",
        estimate: EstimateKind::Empirical,
        make: |_| inverse(Storage::Full, Lanczos::default()),
    },
    MethodInfo {
        name: "nystrom",
        aliases: &[],
        summary: "randomized Nyström approximation of the empirical Fisher of rank 128, everything else at λ",
        cost: "two products 128·nD, 8D·128²; holds a block's gradients or D²",
        source: "Frangella et al. 2023, alg. 2.1",
        estimate: EstimateKind::Empirical,
        make: |_| inverse(Storage::Full, Nystrom::default()),
    },
    MethodInfo {
        name: "exact",
        aliases: &[],
        summary: "exact inverse of the empirical Fisher: Cholesky, or the n × n dual",
        cost: "n²D + n³/3 (dual) or nD² + D³/3; holds a block's gradients or D²",
        source: "Koh and Liang 2017, eq. 2; Woodbury 1950",
        estimate: EstimateKind::Empirical,
        make: |_| inverse(Storage::Full, Exact),
    },
    MethodInfo {
        name: "hyperinf",
        aliases: &[],
        summary: "generalized Fisher (one factor per block), inverted by hyperpower iteration or Cholesky, by cost",
        cost: "2nrd² once; d³/3, or 4d³ per step; d² memory",
        source: "Zhou et al. 2024, sec. 3",
        estimate: EstimateKind::Empirical,
        make: |gfim| inverse(gfim.storage(), Auto::default()),
    },
    MethodInfo {
        name: "hyperinf-authors",
        aliases: &[],
        summary: "the authors' program: unscaled GFIM, 0.001 on the diagonal, 30 Schulz steps from 5e-5·I",
        cost: "2nrd² once, 30 × 4d³, d² memory",
        source: "Zhou et al. 2024, published program",
        estimate: EstimateKind::Empirical,
        make: |gfim| inverse(Gfim { scale: Scale::Sum, ..gfim }.storage(), Hyperpower::authors()),
    },
    MethodInfo {
        name: "diagonal",
        aliases: &[],
        summary: "the diagonal of the empirical Fisher",
        cost: "nD once, D memory",
        source: "Kirkpatrick et al. 2017, eq. 3",
        estimate: EstimateKind::Empirical,
        make: |_| inverse(Storage::Diagonal, Exact),
    },
    MethodInfo {
        name: "kfac",
        aliases: &["k-fac"],
        summary: "Kronecker product of the second moments of a layer's inputs and of its output gradients; needs activations",
        cost: "2n(r² + d²) once, eigenbases 9(r³ + d³), r² + d² memory",
        source: "Martens and Grosse 2015, sec. 3",
        estimate: EstimateKind::Sampled,
        make: |_| inverse(Storage::Kronecker { corrected: false }, Exact),
    },
    MethodInfo {
        name: "ekfac",
        aliases: &["ek-fac"],
        summary: "K-FAC's eigenbases with eigenvalues fitted to the gradients; needs activations",
        cost: "as kfac, and 2nD(r + d) in a second pass",
        source: "George et al. 2018, eq. 7; Grosse et al. 2023, sec. 2.2",
        estimate: EstimateKind::Sampled,
        make: |_| inverse(Storage::Kronecker { corrected: true }, Exact),
    },
    MethodInfo {
        name: "shampoo",
        aliases: &[],
        summary: "eigenbases of Σ g gᵀ and Σ gᵀg with eigenvalues fitted to the gradients",
        cost: "as ekfac, from gradients alone",
        source: "Gupta et al. 2018, alg. 1; George et al. 2018, eq. 7",
        estimate: EstimateKind::Empirical,
        make: |_| inverse(Storage::TwoSided { corrected: true }, Exact),
    },
];
