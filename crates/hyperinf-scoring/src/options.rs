use hyperinf_curvature::{Damping, Storage};
use hyperinf_solvers::Auto;

use crate::{Gfim, Method, MethodSpec, SpecError};

/// Whether queries are scored one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryMode {
    /// One row of scores per query.
    #[default]
    Each,
    /// One row: the scores for the mean of the queries' gradients.
    Mean,
}

/// The divisor of scores, with `x = v (H + λI)⁻¹` and every norm over all blocks together.
///
/// Outliers and wrong labels have large gradients, and so large scores for every query. Divided by a norm of its
/// gradient a sample counts by its direction. A sample whose divisor is 0 moves nothing and has the score 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalisation {
    /// Nothing: `⟨x, g⟩`.
    #[default]
    None,
    /// `||g||`: a training step on every sample has the same length.
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

impl Normalisation {
    /// Its word: `none`, `l2`, `cosine`, `l-relatif` or `theta-relatif`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gradient => "l2",
            Self::Cosine => "cosine",
            Self::LossRelatif => "l-relatif",
            Self::ThetaRelatif => "theta-relatif",
        }
    }
}

/// The choices of [`attribute`](crate::attribute).
///
/// | name | default | purpose | range |
/// |---|---|---|---|
/// | `method` | HyperINF | how scores are computed | see [`methods`](crate::methods) |
/// | `normalisation` | none | the divisor of the scores | |
/// | `damping` | relative 0.1 | `λ` of each block | positive, finite |
/// | `query` | each | one row per query, or their mean | |
/// | `merged` | false | one matrix over all blocks instead of one per block | |
/// | `block_scores` | false | keep each block's part of the scores | |
#[derive(Clone)]
pub struct Options {
    /// How scores are computed.
    pub method: Method,
    /// The divisor of the scores.
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
            method: Method::inverse(Gfim::default().storage(), Auto::default()),
            normalisation: Normalisation::default(),
            damping: Damping::default(),
            query: QueryMode::default(),
            merged: false,
            block_scores: false,
        }
    }
}

impl Options {
    /// Whether a score over the number of samples is an estimate of a change of the query's loss: the method inverts its
    /// curvature, and nothing is divided out. How good an estimate depends on the curvature.
    pub fn is_first_order(&self) -> bool {
        // These multiply by something else than the inverse: DataInf by up to the trace over λ times it.
        const OTHERS: [&str; 3] = ["identity", "datainf", "schulz-authors"];
        match &self.method {
            Method::Inverse { solver, .. } => {
                self.normalisation == Normalisation::None && !OTHERS.contains(&solver.name())
            }
            Method::Identity => false,
        }
    }

    /// What one unit of the scores means.
    ///
    /// With the Hessian of a model whose training has converged, `score/n` is the change of the query's loss without the
    /// sample, to first order. A damped empirical Fisher is no such Hessian: its scores are too large wherever the loss
    /// of the samples is small, which leaves their ranks as they are.
    pub fn unit(&self) -> &'static str {
        match (self.normalisation, &self.method) {
            (Normalisation::None, Method::Identity) => "inner products of gradients",
            (Normalisation::None, Method::Inverse { .. }) if !self.is_first_order() => {
                "ranks only: the size of a score is not that of a change of a loss"
            }
            (
                Normalisation::None,
                Method::Inverse { storage: Storage::Dense | Storage::Samples | Storage::Full, .. },
            ) => {
                "ranks; score / samples is the change of the query's loss if the sample is left out as far as training \
                 has converged and the damped curvature is the Hessian"
            }
            (Normalisation::None, Method::Inverse { .. }) => {
                "ranks; score / samples is no more than the order of a change of the query's loss if the sample is \
                 left out: the curvature is approximate"
            }
            (Normalisation::Cosine, Method::Identity) => "cosines of gradients, from -1 to 1",
            (Normalisation::Cosine, Method::Inverse { .. }) => {
                "cosines of preconditioned query and training gradients, from -1 to 1"
            }
            (Normalisation::Gradient, _) => "scores divided by the norm of the training gradient",
            (Normalisation::LossRelatif, _) => "scores divided by the root of the sample's self-influence",
            (Normalisation::ThetaRelatif, _) => "scores divided by the norm of the preconditioned training gradient",
        }
    }

    /// The options of a method in one word, such as `datainf` or `hyperinf:cols:sum`, with everything else at its
    /// default: [`MethodSpec`] has the grammar, [`methods`](crate::methods) the names.
    ///
    /// `kfac` and `ekfac` need captures; their published form samples labels from the model, which is a choice of the
    /// curvature's source ([`CurvatureFrom::Source`](crate::CurvatureFrom::Source)), not of the method.
    ///
    /// ```
    /// use hyperinf_scoring::Options;
    ///
    /// assert!(Options::named("hyperinf:cols").is_ok());
    /// let error = Options::named("data-inf").err().expect("there is no such method");
    /// assert!(error.to_string().contains("did you mean `datainf`?"));
    /// ```
    ///
    /// # Errors
    ///
    /// [`SpecError`] if it is not a method, or names an estimate, which the source of the curvature decides.
    pub fn named(method: &str) -> Result<Self, SpecError> {
        let spec: MethodSpec = method.parse()?;
        match spec.estimate {
            None => spec.options(),
            Some(estimate) => Err(SpecError::Estimate { spec: method.to_owned(), estimate: estimate.name() }),
        }
    }
}
