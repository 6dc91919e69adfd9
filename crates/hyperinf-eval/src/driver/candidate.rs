use hyperinf_curvature::Damping;
use hyperinf_gradients::Estimate;
use hyperinf_scoring::{EstimateKind, Method, MethodSpec, Options, SpecError};

/// Variants of methods that [`Candidate::all`] includes in place of the plain method.
const VARIANTS: [&str; 12] = [
    "hyperinf:rows",
    "hyperinf:cols",
    "hyperinf:cols@gauss-newton",
    "exact",
    "exact:merged",
    "exact@gauss-newton",
    "exact:merged@gauss-newton",
    "kfac",
    "ekfac",
    "ekfac@gauss-newton",
    "shampoo",
    "shampoo@gauss-newton",
];

/// A method to compare with a ground truth.
#[derive(Clone)]
pub struct Candidate {
    /// Its name in results.
    pub name: String,
    /// How scores are computed.
    pub options: Options,
    /// The estimate of the curvature; ignored by methods without one.
    pub estimate: Estimate,
    /// Steps that refine the inverses of the blocks to that of the Gauss-Newton matrix over all of them; `None` for the
    /// inverses themselves. See [`hyperinf_scoring::refine`].
    pub refine: Option<usize>,
}

impl Candidate {
    /// The method of a specification, by default with the estimate that it is published with. `draws` and `seed` are
    /// those of sampled labels; Gauss-Newton curvature is exact.
    ///
    /// # Errors
    ///
    /// As [`MethodSpec::options`].
    pub fn new(spec: &MethodSpec, draws: usize, seed: u64) -> Result<Self, SpecError> {
        let estimate = match spec.estimate.unwrap_or(spec.method.estimate) {
            EstimateKind::Empirical => Estimate::Empirical,
            EstimateKind::Sampled => Estimate::Sampled { seed, draws },
            EstimateKind::GaussNewton => Estimate::GaussNewton { sketch: None },
        };
        Ok(Self { name: spec.to_string(), options: spec.options()?, estimate, refine: None })
    }

    /// The same method with so many steps of refinement, under the name `METHOD --refine STEPS`; `None` without curvature.
    #[must_use]
    pub fn refined(&self, steps: usize) -> Option<Self> {
        let name = format!("{} --refine {steps}", self.name);
        self.has_curvature().then(|| Self { name, refine: Some(steps), ..self.clone() })
    }

    /// Every named method, some in several variants: sides, estimates and one matrix over all blocks.
    ///
    /// # Errors
    ///
    /// As parsing a [`MethodSpec`].
    pub fn all() -> Result<Vec<MethodSpec>, SpecError> {
        let variants: Vec<MethodSpec> = VARIANTS.iter().map(|word| word.parse()).collect::<Result<_, _>>()?;
        let of = |plain: MethodSpec| {
            let own: Vec<MethodSpec> = variants.iter().filter(|spec| spec.method == plain.method).copied().collect();
            if own.is_empty() { vec![plain] } else { own }
        };
        Ok(MethodSpec::all().into_iter().flat_map(of).collect())
    }

    /// Whether the method inverts a curvature, so that damping and estimate matter.
    pub fn has_curvature(&self) -> bool {
        match self.options.method {
            Method::Identity => false,
            Method::Inverse { .. } => true,
        }
    }

    /// The estimate of the curvature; `None` for a method without curvature.
    pub fn estimate_kind(&self) -> Option<EstimateKind> {
        self.has_curvature().then_some(self.estimate.into())
    }

    /// The damping factor; `None` for a method without curvature.
    pub fn damping(&self) -> Option<f64> {
        let (Damping::Relative(factor) | Damping::Absolute(factor)) = self.options.damping;
        self.has_curvature().then_some(factor)
    }

    /// The candidate at each relative damping; once if it has no curvature.
    pub(super) fn at(&self, dampings: &[f64]) -> Vec<Self> {
        if !self.has_curvature() {
            return vec![self.clone()];
        }
        let at = |&factor: &f64| {
            let options = Options { damping: Damping::Relative(factor), ..self.options.clone() };
            Self { options, ..self.clone() }
        };
        dampings.iter().map(at).collect()
    }
}
