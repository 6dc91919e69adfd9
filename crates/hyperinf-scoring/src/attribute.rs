use hyperinf_curvature::BlockCurvature;

use crate::passes::accumulate;
use crate::{Attribution, Method, Options, ScoreError, Scorer, Set, Source};

/// Scores every training sample for every query: `score = Σ_l v_l (H_l + λ_l I)⁻¹ g_l`, positive = helpful.
///
/// The queries are gone through once. Training gradients are gone through once for the curvature and once for the
/// scores, and never all held, unless the storage is the samples themselves; then one pass is enough. With a
/// [`Normalisation`](crate::Normalisation) every block's inverse is held through the second pass.
///
/// # Errors
///
/// If the damping is not positive and finite, a set is empty, a gradient is not finite, the two sets' blocks differ,
/// two passes give different numbers of samples, or a block cannot be inverted.
pub fn attribute(train: &dyn Source, query: &dyn Source, options: &Options) -> Result<Attribution, ScoreError> {
    let mut scorer = Scorer::new(options.clone())?;
    scorer.add(train, query)?;
    scorer.finish()
}

/// [`attribute`] with the curvature of other samples: another data set, or what another estimate sends back.
///
/// `score = Σ_l v_l (H_l + λ_l I)⁻¹ g_l` with `H_l` and the relative `λ_l` of `curvature`. Its blocks are those of the
/// training samples; their numbers may differ.
///
/// # Errors
///
/// As [`attribute`].
pub fn attribute_with(
    train: &dyn Source,
    curvature: &dyn Source,
    query: &dyn Source,
    options: &Options,
) -> Result<Attribution, ScoreError> {
    let mut scorer = Scorer::new(options.clone())?;
    scorer.add_with(train, curvature, query)?;
    scorer.finish()
}

/// The curvature of each block of a source, in the storage of the options' method; none for a method without one.
///
/// For [`Scorer::add_known`] and [`self_influence_known`](crate::self_influence_known): the curvature of a model, say,
/// for samples whose gradients are stored.
///
/// # Errors
///
/// If there are no samples, a gradient is not finite, or two passes differ.
pub fn curvature(source: &dyn Source, options: &Options) -> Result<Vec<BlockCurvature>, ScoreError> {
    match options.method {
        Method::Identity => Ok(Vec::new()),
        Method::Inverse { storage, .. } => accumulate(source, Set::Curvature, None, storage, options.merged),
    }
}
