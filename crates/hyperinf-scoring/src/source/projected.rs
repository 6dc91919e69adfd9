use burn::tensor::{Tensor, s};
use hyperinf_curvature::{Kronecker, Storage};
use hyperinf_gradients::{Block, GradientError, Projection, Sides};

use crate::passes::accumulate;
use crate::{Batch, Samples, ScoreError, Set, Source};

/// A source whose gradients are projected. Every other function treats it as a source of smaller gradients.
///
/// Captures are projected before they are multiplied out, so that no gradient of a block's full size is formed.
#[derive(Clone, Copy)]
pub struct ProjectedSource<'a> {
    /// The source to project.
    pub source: &'a dyn Source,
    /// The same projection for training samples, queries and the samples of a curvature.
    pub projection: &'a Projection,
}

impl Source for ProjectedSource<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.source.pass(&mut |Batch { samples, unprojected }| {
            let samples = match samples {
                Samples::Gradients(gradients) => {
                    Samples::Gradients(self.projection.gradients(&gradients).map_err(unfit)?)
                }
                Samples::Captures(captures) => Samples::Captures(self.projection.captures(captures).map_err(unfit)?),
            };
            let unprojected = unprojected.unwrap_or_else(|| self.projection.layout().clone());
            visit(Batch { samples, unprojected: Some(unprojected) })
        })
    }
}

fn unfit(error: GradientError) -> ScoreError {
    ScoreError::Projection(error)
}

/// The projection onto the leading principal directions of both sides of every block: the eigenvectors of the `rank`
/// largest eigenvalues of `A` and `S` ([`Moments::Captures`]) or of `L` and `R` ([`Moments::Gradients`]).
///
/// Sides not longer than `rank` stay as they are. The result is exact where the gradients have no component in the
/// directions left out. Takes one pass; errors call the source's samples training samples.
///
/// # Errors
///
/// If the source is empty, `rank` is 0, a gradient is not finite, or, for [`Moments::Captures`], the source has none.
pub fn principal(source: &dyn Source, moments: Moments, rank: usize) -> Result<Projection, ScoreError> {
    if rank == 0 {
        return Err(unfit(GradientError::Empty { what: "directions to project on" }));
    }
    let storage = match moments {
        Moments::Captures => Storage::Kronecker { corrected: false },
        Moments::Gradients => Storage::TwoSided { corrected: false },
    };
    let (mut layout, mut sides) = (Vec::new(), Vec::new());
    for found in accumulate(source, Set::Train, None, storage, false)? {
        let Block { rows, cols, .. } = found.block;
        let leading = |vectors: Tensor<2>, length: usize| {
            // Largest eigenvalues first.
            (length > rank).then(|| vectors.slice(s![.., 0..rank]))
        };
        layout.push(found.block);
        let Kronecker { left, right, .. } = found.curvature.try_into()?;
        sides.push(Sides { left: leading(left, rows), right: leading(right, cols) });
    }
    Projection::new(layout, sides).map_err(unfit)
}

/// The second moments whose eigenvectors [`principal`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    /// `A = mean a aᵀ` and `S = mean δ δᵀ` over positions: LoGra's initialisation (Choe et al. 2024, section 3).
    Captures,
    /// `L = mean g gᵀ` and `R = mean gᵀ g`: the directions with most of the gradients' squared norm.
    Gradients,
}
