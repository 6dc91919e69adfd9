use hyperinf_curvature::{Damping, Scale, Storage};
use hyperinf_solvers::{BlockCg, Cg, DataInf, Exact, Hyperpower, Lanczos, Lissa, Nystrom};

use crate::{Gfim, Method};

/// Whether queries are scored one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryMode {
    /// One row of scores per query.
    #[default]
    Each,
    /// One row: the scores for the mean of the queries' gradients.
    Mean,
}

/// What scores are divided by, with `x = v (H + λI)⁻¹` and all norms taken over all blocks together.
///
/// Large gradients, of outliers and wrong labels, have large scores for every query. Divided by a norm of the training
/// sample's gradient they count by their direction. A sample whose divisor is 0 has the score 0: it moves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalisation {
    /// Nothing: `⟨x, g⟩`.
    #[default]
    None,
    /// `||g||`: training on each sample goes a step of the same length.
    Gradient,
    /// `||x|| ||g||`, in [−1, 1]: of [`Method::Identity`] the cosine of the two gradients (Hanawa et al. 2021, section
    /// 3), of others that of the preconditioned query with the training gradient.
    Cosine,
    /// `√(g (H + λI)⁻¹ g)`, the root of the sample's self-influence: ℓ-RelatIF (Barshan et al. 2020), the
    /// effect on the query per change of the losses of all training samples.
    LossRelatif,
    /// `||g (H + λI)⁻¹||`: θ-RelatIF (Barshan et al. 2020), the effect on the query per change of the
    /// parameters.
    ThetaRelatif,
}

/// The choices of [`attribute`](crate::attribute).
///
/// | name | default | purpose | range |
/// |---|---|---|---|
/// | `method` | HyperINF | how scores are computed | see [`methods`](crate::methods) |
/// | `normalisation` | none | what they are divided by | |
/// | `damping` | relative 0.1 | `λ` of each block | positive, finite |
/// | `query` | each | one row per query, or their mean | |
/// | `merged` | false | one matrix over all blocks instead of one per block | |
/// | `block_scores` | false | keep each block's part of the scores | |
#[derive(Clone)]
pub struct Options {
    /// How scores are computed.
    pub method: Method,
    /// What they are divided by.
    pub normalisation: Normalisation,
    /// The damping of each block.
    pub damping: Damping,
    /// Each query or their mean.
    pub query: QueryMode,
    /// All blocks side by side as one, instead of one matrix per block.
    pub merged: bool,
    /// Keep each block's part of the scores.
    pub block_scores: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: Method::inverse(Gfim::default().storage(), Hyperpower::default()),
            normalisation: Normalisation::default(),
            damping: Damping::default(),
            query: QueryMode::default(),
            merged: false,
            block_scores: false,
        }
    }
}

impl Options {
    /// The method of that name with everything else at its default; one of [`methods`](crate::methods).
    ///
    /// `gfim` matters to `hyperinf` and, but for its scale, to `hyperinf-authors`. `kfac` and `ekfac` need a curvature
    /// source with captures; their published form takes labels sampled from the model, which is a choice of that source
    /// ([`attribute_with`](crate::attribute_with)), not of the method. All names are of a [`Method`] but
    /// `cosine`, which is `identity` with [`Normalisation::Cosine`].
    pub fn named(name: &str, gfim: Gfim) -> Option<Self> {
        let method = match name {
            "identity" => Method::Identity,
            "cosine" => {
                let normalisation = Normalisation::Cosine;
                return Some(Self { method: Method::Identity, normalisation, ..Self::default() });
            }
            "datainf" => Method::inverse(Storage::Samples, DataInf),
            "lissa" => Method::inverse(Storage::Full, Lissa::default()),
            "cg" => Method::inverse(Storage::Full, Cg::default()),
            "block-cg" => Method::inverse(Storage::Full, BlockCg::default()),
            "lanczos" => Method::inverse(Storage::Full, Lanczos::default()),
            "nystrom" => Method::inverse(Storage::Full, Nystrom::default()),
            "exact" => Method::inverse(Storage::Full, Exact),
            "diagonal" => Method::inverse(Storage::Diagonal, Exact),
            "kfac" => Method::inverse(Storage::Kronecker { corrected: false }, Exact),
            "ekfac" => Method::inverse(Storage::Kronecker { corrected: true }, Exact),
            "shampoo" => Method::inverse(Storage::TwoSided { corrected: true }, Exact),
            "hyperinf" => Method::inverse(gfim.storage(), Hyperpower::default()),
            "hyperinf-authors" => Method::inverse(Gfim { scale: Scale::Sum, ..gfim }.storage(), Hyperpower::authors()),
            _ => return None,
        };
        Some(Self { method, ..Self::default() })
    }
}
