use hyperinf_gradients::{Gradients, same_layout};

use crate::{Batch, ScoreError, Set, Source};

/// A source whose gradients are multiplied entry by entry: by `1/√d`, they are those in a metric `d`, such as that of
/// AdamW's second moments.
///
/// Gradients are formed: what is multiplied is no product of a layer's inputs and output gradients.
#[derive(Clone, Copy)]
pub struct ScaledSource<'a> {
    /// The source to scale.
    pub source: &'a dyn Source,
    /// The factors, `[1, rows, cols]` of each block.
    pub factors: &'a Gradients,
}

impl Source for ScaledSource<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.source.pass(&mut |batch| {
            let Gradients { layout, blocks } = batch.into_gradients();
            same_layout(&self.factors.layout, &layout).map_err(ScoreError::gradients(Set::Train))?;
            let scaled = blocks.into_iter().zip(&self.factors.blocks);
            let blocks = scaled.map(|(rows, factors)| {
                let factors = factors.clone().cast(rows.dtype());
                rows * factors
            });
            visit(Gradients { layout, blocks: blocks.collect() }.into())
        })
    }
}
