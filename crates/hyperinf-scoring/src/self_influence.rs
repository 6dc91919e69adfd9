use hyperinf_gradients::same_layout;

use crate::block_rows::{BatchRows, BlockRows};
use crate::part::add;
use crate::passes::each_batch;
use crate::precondition::invert;
use crate::source::Replayed;
use crate::{BlockReport, CurvatureFrom, Method, Options, ScoreError, Set, Source};

/// The influence of each training sample on itself.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SelfInfluence {
    /// `Σ_l g_l (H_l + λ_l I)⁻¹ g_l` of each sample, `[n]`: never negative for an exact inverse, large for samples
    /// that the model fits against the others.
    pub values: Vec<f64>,
    /// One report per block that was inverted.
    pub blocks: Vec<BlockReport>,
}

impl SelfInfluence {
    /// Adds the part of further blocks of the same samples.
    ///
    /// # Errors
    ///
    /// If the numbers of samples differ.
    pub fn merge(&mut self, more: Self) -> Result<(), ScoreError> {
        let (found, expected) = (more.values.len(), self.values.len());
        if expected != 0 && found != expected {
            return Err(ScoreError::SampleCount { set: Set::Train, found, expected });
        }
        add(&mut self.values, more.values);
        self.blocks.extend(more.blocks);
        Ok(())
    }
}

/// Each training sample's influence on itself: high for outliers and wrong labels, without any query.
///
/// For [`Method::Identity`] the squared norm of its gradient. Never normalised. Every block's inverse is held through
/// the second pass.
///
/// # Errors
///
/// As [`attribute`](crate::attribute).
pub fn self_influence(
    train: &dyn Source,
    curvature: CurvatureFrom<'_>,
    options: &Options,
) -> Result<SelfInfluence, ScoreError> {
    options.damping.validate()?;
    let mut values = Vec::new();
    if matches!(options.method, Method::Identity) {
        train.pass(&mut |batch| {
            if let Some(batch) = BatchRows::new(batch, options.merged, Set::Train)? {
                values.extend(batch.squared_norms(values.len(), Set::Train)?);
            }
            Ok(())
        })?;
        return Ok(SelfInfluence { values, blocks: Vec::new() });
    }
    let replayed = Replayed::new(train);
    let train: &dyn Source = if matches!(curvature, CurvatureFrom::Training) { &replayed } else { train };
    let inverses = invert(train, curvature, None, options, options.damping)?;
    let mut inverses = inverses.collect::<Result<Vec<_>, _>>()?;
    let expected: Vec<_> = inverses.iter().map(|inverted| inverted.block.clone()).collect();
    each_batch(train, options.merged, Set::Train, &mut |gradients| {
        same_layout(&expected, &gradients.layout).map_err(ScoreError::gradients(Set::Train))?;
        let mut batch = Vec::new();
        for (inverted, rows) in inverses.iter_mut().zip(&gradients.blocks) {
            let rows = BlockRows::Formed(rows.clone().flatten(1, 2));
            inverted.check(&rows)?;
            add(&mut batch, inverted.self_influence(&rows)?);
        }
        values.extend(batch);
        Ok(())
    })?;
    Ok(SelfInfluence { values, blocks: inverses.into_iter().filter_map(|inverted| inverted.report).collect() })
}
