use burn::tensor::Tensor;
use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::same_layout;

use crate::passes::{each_batch, squares};
use crate::precondition::{Curved, invert};
use crate::{BlockReport, Method, Options, ScoreError, Set, Source};

/// The influence of each training sample on itself.
#[derive(Clone, Debug, Default)]
pub struct SelfInfluence {
    /// `Σ_l g_l (H_l + λ_l I)⁻¹ g_l` of each sample, `[n]`: never negative for an exact inverse, large for samples
    /// that the model fits against the others.
    pub values: Vec<f64>,
    /// One report per block that was inverted.
    pub blocks: Vec<BlockReport>,
}

/// Each training sample's influence on itself: high for outliers and wrong labels, without any query.
///
/// For [`Method::Identity`] the squared norm of its gradient. Never normalised. Every block's inverse is held through
/// the second pass.
///
/// # Errors
///
/// As [`attribute`](crate::attribute).
pub fn self_influence(train: &dyn Source, options: &Options) -> Result<SelfInfluence, ScoreError> {
    self_influences(train, Curved::Training, options)
}

/// [`self_influence`] with the curvature of other samples, as [`attribute_with`](crate::attribute_with).
///
/// # Errors
///
/// As [`attribute`](crate::attribute).
pub fn self_influence_with(
    train: &dyn Source,
    curvature: &dyn Source,
    options: &Options,
) -> Result<SelfInfluence, ScoreError> {
    self_influences(train, Curved::Of(curvature), options)
}

/// [`self_influence`] with a curvature that is made already, as [`Scorer::add_known`](crate::Scorer::add_known).
///
/// # Errors
///
/// As [`attribute`](crate::attribute).
pub fn self_influence_known(
    train: &dyn Source,
    curvature: Vec<BlockCurvature>,
    options: &Options,
) -> Result<SelfInfluence, ScoreError> {
    self_influences(train, Curved::Known(curvature), options)
}

fn self_influences(train: &dyn Source, curvature: Curved<'_>, options: &Options) -> Result<SelfInfluence, ScoreError> {
    options.damping.validate()?;
    let mut values = Vec::new();
    if matches!(options.method, Method::Identity) {
        each_batch(train, options.merged, Set::Train, &mut |gradients| {
            values.extend(squares(&gradients, values.len(), Set::Train)?);
            Ok(())
        })?;
        return Ok(SelfInfluence { values, blocks: Vec::new() });
    }
    let mut inverses = invert(train, curvature, None, options)?.collect::<Result<Vec<_>, _>>()?;
    let expected: Vec<_> = inverses.iter().map(|inverted| inverted.block.clone()).collect();
    each_batch(train, options.merged, Set::Train, &mut |gradients| {
        same_layout(&expected, &gradients.layout).map_err(ScoreError::gradients(Set::Train))?;
        let start = values.len();
        values.resize(start + gradients.samples(), 0.0);
        for (inverted, rows) in inverses.iter_mut().zip(&gradients.blocks) {
            let rows: Tensor<2> = rows.clone().flatten(1, 2);
            inverted.check(&rows)?;
            let found = inverted.self_influence(&rows)?;
            values[start..].iter_mut().zip(found).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    })?;
    Ok(SelfInfluence { values, blocks: inverses.into_iter().filter_map(|inverted| inverted.report).collect() })
}
