use hyperinf_curvature::Damping;

use crate::{Attribution, CurvatureFrom, Options, ScoreError, Scorer, Source, Sweep};

/// Scores every training sample for every query: `score = Σ_l v_l (H_l + λ_l I)⁻¹ g_l`, positive = helpful.
///
/// The queries are visited once. The training samples are visited once for the curvature, if it is theirs, and once for
/// the scores. They are never all held, unless the storage is the samples themselves; then one pass is enough. With
/// [`Normalisation::LossRelatif`](crate::Normalisation::LossRelatif) and
/// [`ThetaRelatif`](crate::Normalisation::ThetaRelatif) every block's inverse is held through the second pass.
///
/// # Errors
///
/// If the damping is not positive and finite, a set is empty, a gradient is not finite, the blocks of two sets differ,
/// two passes give different numbers of samples, or a block cannot be inverted.
pub fn attribute(
    train: &dyn Source,
    query: &dyn Source,
    curvature: CurvatureFrom<'_>,
    options: &Options,
) -> Result<Attribution, ScoreError> {
    let mut scorer = Scorer::new(options.clone())?;
    scorer.add(train, query, curvature)?;
    scorer.finish()
}

/// [`attribute`] at many dampings, in their order, from one curvature; `options.damping` is not used.
///
/// Every block is prepared by [`Solver::prepare_sweep`](hyperinf_solvers::Solver::prepare_sweep), which may reuse a
/// decomposition or start from the inverse at the damping before. The preconditioned queries of all dampings,
/// `[dampings · q, D]`, are scored in one pass.
///
/// # Errors
///
/// As [`attribute`].
pub fn sweep(
    train: &dyn Source,
    query: &dyn Source,
    curvature: CurvatureFrom<'_>,
    options: &Options,
    dampings: &[Damping],
) -> Result<Vec<Attribution>, ScoreError> {
    let mut sweep = Sweep::new(options.clone(), dampings.to_vec())?;
    sweep.add(train, query, curvature)?;
    sweep.finish()
}
