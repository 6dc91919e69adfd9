use burn::tensor::{DType, Device};
use hyperinf_gradients::{Block, Entries, GradientError, Projection, Sides};

/// A projection of recorded weights that are too large for a gradient per row, such as a connector's: both sides of
/// the block are shrunk by random matrices when the gradients are taken, `(a P)ᵀ (δ Q)`, so that none of the block's
/// size is ever formed. Factors of adapters are projected on request.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `above` | 1,048,576 | blocks with more parameters are projected |
/// | `rank` | 64 | the length of a block's sides afterwards; shorter sides stay as they are |
/// | `seed` | 0 | the seed of the matrices |
/// | `adapters` | `false` | whether factors of adapters are projected as well |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LargeBlocks {
    /// Blocks with more parameters are projected.
    pub above: usize,
    /// The length of a block's sides afterwards.
    pub rank: usize,
    /// The seed of the matrices.
    pub seed: u64,
    /// Whether factors of adapters are projected as well.
    pub adapters: bool,
}

impl Default for LargeBlocks {
    fn default() -> Self {
        Self { above: 1 << 20, rank: 64, seed: 0, adapters: false }
    }
}

impl LargeBlocks {
    /// Whether a block is projected.
    pub fn includes(&self, block: &Block) -> bool {
        block.parameters() > self.above && (self.adapters || !block.name.contains(".lora_"))
    }

    /// The projection of a layout, if it projects anything.
    pub(crate) fn projection(
        &self,
        layout: &[Block],
        place: (&Device, DType),
    ) -> Result<Option<Projection>, GradientError> {
        let large: Vec<Block> = layout.iter().filter(|block| self.includes(block)).cloned().collect();
        if large.is_empty() {
            return Ok(None);
        }
        let drawn = Projection::random(large, self.rank, Entries::Gaussian, self.seed, place)?;
        let mut drawn = drawn.sides().iter().cloned();
        let sides = layout
            .iter()
            .map(|block| if self.includes(block) { drawn.next().unwrap_or_default() } else { Sides::default() });
        Projection::new(layout, sides.collect()).map(Some)
    }
}
