use std::path::Path;

use burn::tensor::Device;
use hyperinf_scoring::{Attribution, Options, Set, TracIn};

use crate::{GradientPair, ProjectionSpec, StoreError, score};

/// The gradients at one moment of a training.
pub struct Checkpoint {
    /// The gradients.
    pub pair: GradientPair,
    /// The learning rate with which the training went on; `None` for 1, where there is one moment only.
    pub rate: Option<f64>,
}

impl Checkpoint {
    /// A further moment of the training that `first` is the first moment of: the same samples and queries.
    ///
    /// # Errors
    ///
    /// As [`GradientPair::open`], or [`StoreError::Checkpoint`] if it has other numbers of samples.
    pub fn open(first: &GradientPair, train: &Path, query: &Path, rate: f64) -> Result<Self, StoreError> {
        let pair = GradientPair::open(train, query)?;
        for set in [Set::Train, Set::Query] {
            let (found, expected) = (pair.file(set).samples(), first.file(set).samples());
            if found != expected {
                let path = pair.file(set).path().to_owned();
                return Err(StoreError::Checkpoint { set, path, found, expected });
            }
        }
        Ok(Self { pair, rate: Some(rate) })
    }
}

/// TracIn: the sum of the moments' scores, each times its learning rate, and the reports of all their blocks.
///
/// `score = Σ_t η_t Σ_l v_tl (H_tl + λ_tl I)⁻¹ g_tl` over the moments `t` (Pruthi et al. 2020, eq. 3, with the identity
/// as `H + λI`). Every pair is projected by `projection` first; `check` sees the result of each moment.
///
/// # Errors
///
/// As [`score`], if there are no checkpoints, or the first error of `check`.
pub fn tracin<E: From<StoreError>>(
    checkpoints: &mut [Checkpoint],
    projection: Option<ProjectionSpec>,
    options: &Options,
    device: &Device,
    mut check: impl FnMut(&Attribution) -> Result<(), E>,
) -> Result<Attribution, E> {
    let mut total = TracIn::default();
    for Checkpoint { pair, rate } in checkpoints {
        pair.project(projection, device)?;
        let found = score(pair, None, options, device)?;
        check(&found)?;
        total.add(rate.unwrap_or(1.0), found).map_err(StoreError::Score)?;
    }
    Ok(total.finish().map_err(StoreError::Score)?)
}
