use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::random::{Purpose, generator, normal, sign};
use crate::{Block, Capture, GradientError, Gradients, same_layout};

/// Shrinks gradients block by block, on both sides: `ĝ = Pᵀ g Q`, `[k, m]` for a block `[rows, cols]`.
///
/// From a capture it is `(a P)ᵀ (δ Q)`, so that no gradient of the block's size is ever formed (LoGra; Choe et al.
/// 2024, *What is Your Data Worth to GPT?*, section 3). Training samples, queries and the samples of a curvature must
/// be projected alike; the results are used like any gradients. The Fisher of random projections is TRAK's (Park et al.
/// 2023, *TRAK: Attributing Model Behavior at Scale*).
#[derive(Clone, Debug)]
pub struct Projection {
    layout: Arc<[Block]>,
    projected: Arc<[Block]>,
    sides: Vec<Sides>,
}

/// The two matrices of a block's projection; a side without one stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Sides {
    /// `P`, `[rows, k]`.
    pub left: Option<Tensor<2>>,
    /// `Q`, `[cols, m]`.
    pub right: Option<Tensor<2>>,
}

/// The distribution of the entries of random matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entries {
    /// `N(0, 1/k)`.
    #[default]
    Gaussian,
    /// `±1/√k`.
    Signs,
}

impl Projection {
    /// A projection by given matrices, one pair per block.
    ///
    /// # Errors
    ///
    /// If there are no blocks, not as many pairs as blocks, or the number of rows of a matrix is not that of its
    /// block's side.
    pub fn new(layout: impl Into<Arc<[Block]>>, sides: Vec<Sides>) -> Result<Self, GradientError> {
        let layout = layout.into();
        if layout.is_empty() {
            return Err(GradientError::Empty { what: "blocks" });
        }
        if sides.len() != layout.len() {
            return Err(GradientError::ProjectionBlocks { blocks: layout.len(), pairs: sides.len() });
        }
        let projected = layout.iter().zip(&sides).map(|(block, Sides { left, right })| {
            let side = |matrix: &Option<Tensor<2>>, length: usize| {
                let [found, kept] = matrix.as_ref().map_or([length, length], |m| m.dims());
                if found == length && kept > 0 {
                    return Ok(kept);
                }
                Err(GradientError::ProjectionShape { block: block.name.clone(), found, kept, expected: length })
            };
            Ok(Block::new(block.name.clone(), side(left, block.rows)?, side(right, block.cols)?))
        });
        let projected = projected.collect::<Result<_, GradientError>>()?;
        Ok(Self { layout, projected, sides })
    }

    /// Random matrices that shrink every side longer than `rank` to `rank`, the same for the same seed and layout on
    /// every device. Shorter sides stay as they are.
    ///
    /// Unbiased: `E⟨ĝ, ĝ'⟩ = ⟨g, g'⟩` over seeds. The error of an inner product falls as `1/√rank` (Johnson and
    /// Lindenstrauss 1984).
    ///
    /// # Errors
    ///
    /// If there are no blocks or `rank` is 0.
    pub fn random(
        layout: impl Into<Arc<[Block]>>,
        rank: usize,
        entries: Entries,
        seed: u64,
        (device, dtype): (&Device, DType),
    ) -> Result<Self, GradientError> {
        let layout = layout.into();
        if rank == 0 {
            return Err(GradientError::Empty { what: "directions to project on" });
        }
        let side = |block: usize, side: usize, length: usize| {
            let mut rng = generator(Purpose::Projection, seed, block, side);
            let scale = (rank as f64).sqrt().recip();
            let draw = |_| match entries {
                Entries::Gaussian => scale * normal(&mut rng),
                Entries::Signs => scale * sign(&mut rng),
            };
            (length > rank).then(|| {
                let values: Vec<f64> = (0..length * rank).map(draw).collect();
                Tensor::from_data(TensorData::new(values, [length, rank]), (device, dtype))
            })
        };
        let sides = layout
            .iter()
            .enumerate()
            .map(|(l, block)| Sides { left: side(l, 0, block.rows), right: side(l, 1, block.cols) });
        let sides = sides.collect();
        Self::new(layout, sides)
    }

    /// The blocks before the projection.
    pub fn layout(&self) -> &Arc<[Block]> {
        &self.layout
    }

    /// The blocks after the projection: the same names, `k × m`.
    pub fn projected(&self) -> &Arc<[Block]> {
        &self.projected
    }

    /// The matrices of each block.
    pub fn sides(&self) -> &[Sides] {
        &self.sides
    }

    /// `Pᵀ g Q` of every sample and block.
    ///
    /// # Errors
    ///
    /// If the blocks are not those of the projection.
    pub fn gradients(&self, gradients: &Gradients) -> Result<Gradients, GradientError> {
        same_layout(&self.layout, &gradients.layout)?;
        let blocks = self.sides.iter().zip(&gradients.blocks).map(|(Sides { left, right }, g)| {
            let half = from_right(g.clone(), right);
            if left.is_none() { half } else { from_right(half.swap_dims(1, 2), left).swap_dims(1, 2) }
        });
        Ok(Gradients { layout: self.projected.clone(), blocks: blocks.collect() })
    }

    /// `aP` and `δQ` of every block: captures whose gradients are the projected ones.
    ///
    /// # Errors
    ///
    /// If the blocks are not those of the projection.
    pub fn captures(&self, captures: Vec<Capture>) -> Result<Vec<Capture>, GradientError> {
        let found: Vec<Block> = captures.iter().map(|c| c.block.clone()).collect();
        same_layout(&self.layout, &found)?;
        let projected = captures.into_iter().zip(&self.sides).zip(self.projected.iter());
        let projected = projected.map(|((capture, Sides { left, right }), block)| Capture {
            block: block.clone(),
            input: from_right(capture.input, left),
            delta: from_right(capture.delta, right),
        });
        Ok(projected.collect())
    }
}

/// `X M` for `[n, t, d]` and `[d, k]`, as one two-dimensional product.
fn from_right(x: Tensor<3>, matrix: &Option<Tensor<2>>) -> Tensor<3> {
    let Some(matrix) = matrix else { return x };
    let ([n, t, d], [_, k]) = (x.dims(), matrix.dims());
    let matrix = matrix.clone().cast(x.dtype());
    x.reshape([n * t, d]).matmul(matrix).reshape([n, t, k])
}
