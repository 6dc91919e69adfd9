use hyperinf_curvature::{BlockCurvature, Storage};
use hyperinf_gradients::{Block, Gradients, same_layout};

use crate::passes::accumulate;
use crate::{Method, Options, ScoreError, Set, Source};

/// Where the curvature of each block comes from.
///
/// `score = Σ_l v_l (H_l + λ_l I)⁻¹ g_l`: `H_l` and a relative `λ_l` are those of this curvature, `g_l` is always a
/// training gradient. The blocks must be those of the training samples; the numbers of samples may differ.
#[derive(Clone, Default)]
pub enum CurvatureFrom<'a> {
    /// The training gradients: the empirical Fisher.
    #[default]
    Training,
    /// Other samples: another data set, or the pseudo-samples of a [`CurvatureSource`](crate::CurvatureSource).
    Source(&'a dyn Source),
    /// Curvature that [`curvature`] has already accumulated, one per block in the order of the training samples.
    ///
    /// Not used by methods without curvature.
    Known(Vec<BlockCurvature>),
    /// As [`CurvatureFrom::Training`], already accumulated: [`curvature`] of the training samples. Not that of
    /// [`Storage::Samples`], whose samples are the training gradients to be scored.
    KnownTraining(Vec<BlockCurvature>),
}

impl CurvatureFrom<'_> {
    /// Whether it is that of the training gradients.
    pub(crate) fn is_of_training(&self) -> bool {
        matches!(self, Self::Training | Self::KnownTraining(_))
    }

    /// One curvature per block; fails unless the blocks are those of the queries.
    pub(crate) fn accumulate(
        self,
        train: &dyn Source,
        queries: Option<&Gradients>,
        storage: Storage,
        merged: bool,
    ) -> Result<Vec<BlockCurvature>, ScoreError> {
        match self {
            Self::Training => accumulate(train, Set::Train, queries, storage, merged),
            Self::Source(source) => accumulate(source, Set::Curvature, queries, storage, merged),
            Self::Known(blocks) | Self::KnownTraining(blocks) => {
                if let Some(queries) = queries {
                    let layout: Vec<Block> = blocks.iter().map(|known| known.block.clone()).collect();
                    same_layout(&layout, &queries.layout).map_err(ScoreError::gradients(Set::Query))?;
                }
                Ok(blocks)
            }
        }
    }
}

/// The curvature of each block of a source, stored as the options' method stores it; none for a method without
/// curvature.
///
/// For [`CurvatureFrom::Known`]: the curvature of a model, say, for samples whose gradients are stored.
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
