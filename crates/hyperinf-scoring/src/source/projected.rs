use std::sync::Arc;

use burn::tensor::{Tensor, s};
use hyperinf_curvature::{Kronecker, Storage};
use hyperinf_gradients::{Block, Capture, GradientError, Gradients, Projection, Sides};

use crate::passes::accumulate;
use crate::{ScoreError, Set, Source};

/// A source whose gradients are projected: every other function takes it for a source of smaller gradients.
///
/// Captures are projected before they are multiplied out, so that no gradient of a block's full size is formed;
/// gradients of a source without captures are projected themselves.
#[derive(Clone, Copy)]
pub struct ProjectedSource<'a> {
    /// What is projected.
    pub source: &'a dyn Source,
    /// How: alike for training samples, queries and the samples of a curvature.
    pub projection: &'a Projection,
}

impl Source for ProjectedSource<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        if !self.source.has_captures() {
            return self.source.pass(&mut |gradients| visit(self.projection.gradients(&gradients).map_err(unfit)?));
        }
        self.pass_captures(&mut |captures| {
            let blocks = captures.iter().map(Capture::gradients).collect();
            visit(Gradients { layout: self.projection.projected().clone(), blocks })
        })
    }

    fn has_captures(&self) -> bool {
        self.source.has_captures()
    }

    fn unprojected(&self) -> Option<Arc<[Block]>> {
        self.source.unprojected().or_else(|| Some(self.projection.layout().clone()))
    }

    fn pass_captures(&self, visit: &mut dyn FnMut(Vec<Capture>) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.source.pass_captures(&mut |captures| visit(self.projection.captures(captures).map_err(unfit)?))
    }
}

fn unfit(error: GradientError) -> ScoreError {
    ScoreError::Projection(error)
}

/// The projection onto the leading principal directions of both sides of every block: the eigenvectors of the `rank`
/// largest eigenvalues of `A` and `S` ([`Moments::Captures`]) or of `L` and `R` ([`Moments::Gradients`]).
///
/// Sides not longer than `rank` stay as they are. An orthogonal change of basis that leaves out what varies least:
/// exact where the gradients have no part in what is left out. One pass over the source, in errors the training samples.
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

/// Of which second moments [`principal`] takes the eigenvectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moments {
    /// `A = mean a aᵀ` and `S = mean δ δᵀ` over positions: LoGra's initialisation (Choe et al. 2024, section 3).
    Captures,
    /// `L = mean g gᵀ` and `R = mean gᵀ g`: those directions that hold most of the gradients' squared norm.
    Gradients,
}
