use hyperinf_gradients::Gradients;

use crate::passes::mean;
use crate::{Batch, ScoreError, Set, Source};

/// One query: the mean gradient of one set minus that of another.
///
/// Its scores are those for the mean of `helped` minus those for the mean of `harmed`: positive = helps `helped` more
/// than `harmed`. Errors call the samples of `harmed` [`Set::Contrast`].
#[derive(Clone, Copy)]
pub struct Contrast<'a> {
    /// The queries that samples should help.
    pub helped: &'a dyn Source,
    /// The queries that samples should not help.
    pub harmed: &'a dyn Source,
}

impl Source for Contrast<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        let helped = mean(self.helped, false, Set::Query)?;
        let harmed = mean(self.harmed, false, Set::Contrast)?;
        helped.same_layout(&harmed).map_err(ScoreError::gradients(Set::Contrast))?;
        let blocks = helped.blocks.into_iter().zip(harmed.blocks).map(|(a, b)| a - b).collect();
        visit(Gradients { layout: helped.layout, blocks }.into())
    }
}

/// Several sources, one after the other; the samples of the second are numbered after those of the first.
#[derive(Clone)]
pub struct Joined<'a>(pub Vec<&'a dyn Source>);

impl Source for Joined<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.0.iter().try_for_each(|source| source.pass(visit))
    }
}
